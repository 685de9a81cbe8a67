"""The operating system's page cache: drop files from it, and see what is still in it."""

from __future__ import annotations

import ctypes
import mmap
import os
from pathlib import Path


def drop(path: Path) -> None:
    """Make the next read of a file come from the disk; its changes are written first.

    The kernel takes this as advice (tmpfs, for example, cannot follow it): see
    :func:`cached_fraction`. What the host of a virtual machine caches is out of reach.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)  # Only clean pages can be dropped.
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)


def cached_fraction(path: Path) -> float:
    """Return how much of a file is in the page cache, from 0 to 1; asking changes nothing.

    Raises:
        OSError: when the kernel does not tell.
    """
    size = path.stat().st_size
    if size == 0:
        return 0.0
    pages = -(-size // mmap.PAGESIZE)
    resident = (ctypes.c_ubyte * pages)()
    libc = ctypes.CDLL(None, use_errno=True)
    # A private mapping can be asked for its address without a right to write to the file.
    with path.open("rb") as file, mmap.mmap(file.fileno(), size, access=mmap.ACCESS_COPY) as view:
        first = ctypes.c_char.from_buffer(view)
        try:
            address = ctypes.c_void_p(ctypes.addressof(first))
            if libc.mincore(address, ctypes.c_size_t(size), resident) != 0:
                error = ctypes.get_errno()
                raise OSError(error, os.strerror(error), str(path))
        finally:
            del first  # The view cannot be closed while something refers to its memory.
    return sum(flags & 1 for flags in resident) / pages
