"""The daemon's memory: set up as promised, in a process of its own."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import gc, threading, ctypes
from bot.ops import heap
heap.share_heaps()
kept, together = [], threading.Barrier(8)
def fill():
    together.wait()
    kept.append([ctypes.create_string_buffer(100_000) for _ in range(20)])
    together.wait()
threads = [threading.Thread(target=fill) for _ in range(8)]
[one.start() for one in threads]
[one.join() for one in threads]
class Cycle:
    def __init__(self): self.me = self
Cycle()
before = gc.get_freeze_count()
heap.settle_down()
print(gc.get_freeze_count() > before, gc.get_threshold(), gc.collect())
ctypes.CDLL(None).malloc_stats()
"""


def test_heap__eight_threads__share_two_heaps_and_what_is_there_is_gone_through_no_more() -> None:
    """all threads share a few of the C library's heaps; what the start made is never gone through again"""
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    assert done.stderr.count("Arena ") == 2
    assert "True (5000, 10, 10) 0" in done.stdout
