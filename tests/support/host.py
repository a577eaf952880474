"""The machine under a test: a disk of few megabytes, and file modes that bind root too.

Promises: what is mounted is seen by the one process and its children, and gone with it. Both are words to put before a
command (`before=` of `tests.support.record.keeper` and `running`).
Doesn't promise: that every machine permits it. `small_disks` says whether this one does.
"""

from __future__ import annotations

import os
import subprocess
from functools import lru_cache
from pathlib import Path

_MOUNTS = ("unshare", "--mount") if os.geteuid() == 0 else ("unshare", "--map-root-user", "--mount")
_ON_IT = 'mount -t tmpfs -o "size=$1" tmpfs "$2" && shift 2 && exec "$@"'


def small_disk(folder: Path, size: str) -> tuple[str, ...]:
    """Mounts an empty disk of this size, e.g. `16m`, at `folder`."""
    folder.mkdir(exist_ok=True)
    return (*_MOUNTS, "sh", "-c", _ON_IT, "sh", size, str(folder))


def read_only(folder: Path) -> tuple[str, ...]:
    """The folder as it is, on a disk that takes nothing."""
    there = 'mount --bind "$1" "$1" && mount -o remount,bind,ro "$1" && shift && exec "$@"'
    return (*_MOUNTS, "sh", "-c", there, "sh", str(folder))


@lru_cache
def small_disks(folder: Path) -> bool:
    """Does this machine let us?"""
    try:
        return subprocess.run([*small_disk(folder, "1m"), "true"], capture_output=True).returncode == 0
    except OSError:
        return False


def bound_by_modes() -> tuple[str, ...]:
    """For root: may not write or read what its modes forbid, as any other user."""
    if os.geteuid() != 0:
        return ()
    without = "-dac_override,-dac_read_search"
    return ("setpriv", "--bounding-set", without, "--inh-caps", without)


def seen_by(pid: int, path: Path) -> Path:
    """The same path as that process sees it."""
    return Path(f"/proc/{pid}/root{path}")
