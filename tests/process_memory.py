"""The memory of a process, as one with a debugger's rights reads it.

Programs of tests that run for themselves begin with the text of this module, so it imports nothing
of this project.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from pathlib import Path


def readable_pieces(memory: int, start: int, end: int) -> Iterator[bytes]:
    """Yield what can be read of a mapping, from a descriptor of /proc/PID/mem.

    A mapping may have pages in it that cannot be read: from glibc 2.42 on, a thread's stack begins
    with its guard, and one read of the whole fails because of it. What lies behind is looked at.
    """
    while start < end:
        try:
            piece = os.pread(memory, end - start, start)
        except OSError:
            start += mmap.PAGESIZE - start % mmap.PAGESIZE
            continue
        if not piece:
            return  # The process has ended.
        yield piece
        start += len(piece)


def written_memory(pid: int, largest: int | None = None) -> Iterator[bytes]:
    """Yield what a process may write to, shared memory included.

    Args:
        largest: larger mappings, in bytes, are left out.
    """
    maps = Path(f"/proc/{pid}/maps").read_text().splitlines()
    memory = os.open(f"/proc/{pid}/mem", os.O_RDONLY)
    try:
        for place, rights in (line.split()[:2] for line in maps):
            start, end = (int(edge, 16) for edge in place.split("-"))
            if rights.startswith("rw") and (largest is None or end - start < largest):
                yield from readable_pieces(memory, start, end)
    finally:
        os.close(memory)
