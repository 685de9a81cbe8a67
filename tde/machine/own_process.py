"""What this process does about its own memory and descriptors, before it has keys."""

from __future__ import annotations

import ctypes
import mmap
import os
from pathlib import Path

from tde.closing import Closing

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [
    *(ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int),
    ctypes.c_long,
]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_libc.mlock.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_MAP_FAILED = ctypes.c_void_p(-1).value
_PR_SET_DUMPABLE = 4
_STANDARD_ERROR = 2


def forbid_access() -> None:
    """Close the memory and the descriptors of this process to other programs of its user.

    A command that has opened a keystore may wait long for its server, and a program that a server
    starts runs as the same user. It also forbids core dumps. A program that is started from here
    begins as usual.
    """
    _libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def is_traced() -> bool:
    """Whether a debugger is attached, which it stays after :func:`forbid_access`."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(fields["TracerPid"]) != 0


def fill_standard_descriptors() -> None:
    """Open /dev/null in place of a standard input, output or error that is closed.

    The next file that is opened would get its number: a keystore's file could receive what is
    printed, and a server that is started gives these numbers to its own files and forgets what it
    should inherit there.
    """
    descriptor = os.open(os.devnull, os.O_RDWR)
    while descriptor <= _STANDARD_ERROR:
        # A child has the same right to these three as to any other's.
        os.set_inheritable(descriptor, True)
        descriptor = os.open(os.devnull, os.O_RDWR)
    os.close(descriptor)


class LockedPages(Closing):
    """The pages of a memory file, kept out of swap until this is closed.

    A container with ``RLIMIT_MEMLOCK`` 0 refuses; keys still work there, only less protected.
    """

    def __init__(self, descriptor: int) -> None:
        self._size = os.fstat(descriptor).st_size
        # Private, because older kernels refuse a shared mapping of a sealed file.
        address = _libc.mmap(None, self._size, mmap.PROT_READ, mmap.MAP_PRIVATE, descriptor, 0)
        self._address = None if address == _MAP_FAILED else address
        if self._address is not None:
            _libc.mlock(self._address, self._size)

    def close(self) -> None:
        """Give the pages back; closing again does nothing."""
        if self._address is not None:
            _libc.munmap(self._address, self._size)
            self._address = None
