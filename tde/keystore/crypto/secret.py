"""Memory for keys: locked against swapping, left out of core dumps, wiped after use.

What this does not do: Python and the libraries below it make copies that nothing can wipe; those
of a passphrase are left to :mod:`~tde.keystore.crypto.passing_process`. ``Argon2id.derive``
returns ``bytes``, and OpenSSL holds expanded key schedules while a cipher object lives (it cleans
those up itself). The long-lived secret, the master key, is written by OpenSSL straight into
a :class:`SecretBuffer` and never becomes a ``bytes`` object.
"""

from __future__ import annotations

import ctypes
import mmap
from pathlib import Path

from tde.closing import Closing

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mlock.argtypes = [ctypes.c_void_p, ctypes.c_size_t]


class SecretBuffer(Closing):
    """A fixed number of secret bytes in a page of their own.

    Attributes:
        locked: whether the kernel agreed to keep the page out of swap. A container with
            ``RLIMIT_MEMLOCK`` 0 refuses; keys still work there, only less protected.
    """

    def __init__(self, size: int, *, shared: bool = False) -> None:
        """Allocate ``size`` zero bytes.

        Args:
            shared: with children that are forked from here, which may write to it.
        """
        self._size = size
        # An anonymous mapping rather than a bytearray: the allocator neither moves it nor
        # reuses it for something else, and madvise and mlock apply to whole pages.
        kind = mmap.MAP_SHARED if shared else mmap.MAP_PRIVATE
        self._map = mmap.mmap(-1, size, flags=kind | mmap.MAP_ANONYMOUS)
        self._map.madvise(mmap.MADV_DONTDUMP)
        anchor = ctypes.c_char.from_buffer(self._map)
        self.locked: bool = _libc.mlock(ctypes.addressof(anchor), size) == 0
        # The mapping cannot be closed while an object refers to its memory.
        del anchor

    @property
    def view(self) -> memoryview:
        """The bytes themselves, writable and without a copy; release the view after use."""
        return memoryview(self._map)[: self._size]

    def close(self) -> None:
        """Wipe the bytes and return the page; closing again does nothing."""
        if self._map.closed:
            return
        self._map[:] = bytes(len(self._map))
        # Unmapping also unlocks.
        self._map.close()

    def __repr__(self) -> str:
        return f"<SecretBuffer of {self._size} bytes>"

    def __del__(self) -> None:
        # __init__ may have failed before the mapping existed.
        if hasattr(self, "_map"):
            self.close()


def fill_randomly(view: memoryview) -> None:
    """Fill ``view`` from the kernel's random generator, without a copy elsewhere.

    Raises:
        OSError: the generator cannot be read.
    """
    # os.urandom would return a bytes object, which cannot be wiped.
    with Path("/dev/urandom").open("rb", buffering=0) as source:
        if source.readinto(view) != len(view):
            raise OSError("the kernel's random generator gave too few bytes")


def random_secret(size: int) -> SecretBuffer:
    """Return ``size`` random bytes."""
    secret = SecretBuffer(size)
    with secret.view as view:
        fill_randomly(view)
    return secret


def wipe(buffer: bytearray) -> None:
    """Overwrite ``buffer`` with zeros, keeping its length."""
    buffer[:] = bytes(len(buffer))
