"""How SQLite is set up, for the store and for whoever is compared with it. Promises nothing else."""

from __future__ import annotations

# Each pragma with its reason.
PRAGMAS = (
    "PRAGMA journal_mode=WAL",  # readers (status, explain) never wait for the writer, nor it for them
    "PRAGMA synchronous=NORMAL",  # safe from corruption in WAL; durable transactions raise it to FULL
    "PRAGMA foreign_keys=ON",  # off by default in SQLite
    "PRAGMA busy_timeout=5000",  # ms; another command's inbox row may hold the lock for an instant
    "PRAGMA cache_size=-2000",  # KB; the system holds the file anyway. A sort that needs more goes to a temporary file
    "PRAGMA wal_autocheckpoint=8000",  # pages, 32 MB; a backfill rewrites index pages, and copies them once this way
    "PRAGMA journal_size_limit=67108864",  # bytes; give the disk back after a large backfill
)
