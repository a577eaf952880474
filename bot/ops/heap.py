"""The memory of a daemon that runs for months.

Promises: all threads share a few of the C library's heaps, so that what one frees another can have; what the start made
is never gone through again for garbage, and what comes afterwards often enough that garbage stays small.
Doesn't promise anything where the C library isn't glibc: there the heaps stay as they are.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc

HEAPS = 2  # by default eight for each core: each of the few threads that touch the database fills one of its own
M_ARENA_MAX = -8  # <malloc.h>
THRESHOLD = (5_000, 10, 10)  # objects; statements hold cycles, some kilobytes of them a query


def share_heaps() -> None:
    """To be called before there are threads."""
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).mallopt(M_ARENA_MAX, HEAPS)


def settle_down() -> None:
    """To be called when what a start makes is made."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*THRESHOLD)
