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
from collections.abc import Collection
from pathlib import Path
from weakref import WeakValueDictionary

from tde.closing import Closing

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mlock.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_libc.mmap.argtypes = [
    ctypes.c_void_p,
    ctypes.c_size_t,
    *[ctypes.c_int] * 3,
    ctypes.c_long,
]
_libc.mmap.restype = ctypes.c_void_p
_MAP_FIXED = 0x10


class SecretBytes(bytearray):
    """Secret bytes whose length is known only when they are there; who has them wipes them."""

    def __init__(self, content: bytes | bytearray | memoryview = b"") -> None:
        """Copy ``content``, which stays the caller's to wipe."""
        super().__init__(content)
        _bytes[id(self)] = self


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
        self._address = ctypes.addressof(anchor)
        self.locked: bool = _libc.mlock(self._address, size) == 0
        # The mapping cannot be closed while an object refers to its memory.
        del anchor
        _buffers[id(self)] = self

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

    def withhold(self) -> None:
        """Put empty memory in the place of the bytes, in this process alone.

        Not even a shared buffer changes for other processes, and views of it stay of use.

        Raises:
            OSError: the kernel has not done it.
        """
        if self._map.closed:
            return
        kind = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_FIXED
        rights = mmap.PROT_READ | mmap.PROT_WRITE
        place = _libc.mmap(self._address, self._size, rights, kind, -1, 0)
        if place != self._address:
            raise OSError(ctypes.get_errno(), "could not withhold a secret")

    def __repr__(self) -> str:
        return f"<SecretBuffer of {self._size} bytes>"

    def __del__(self) -> None:
        # __init__ may have failed before the mapping existed.
        if hasattr(self, "_map"):
            self.close()


# By id, because what can be written to has no hash. Weak, so that nothing lives on for them.
_buffers: WeakValueDictionary[int, SecretBuffer] = WeakValueDictionary()
_bytes: WeakValueDictionary[int, SecretBytes] = WeakValueDictionary()


def withhold_secrets(needed: Collection[SecretBuffer] = ()) -> None:
    """Take all secrets from this process, a child that was forked from one that goes on with them.

    The kernel could do so by itself at a fork (MADV_WIPEONFORK), but not all children are to be
    without: those of :mod:`~tde.keystore.crypto.passing_process` are there to work on them.

    Args:
        needed: those that stay.

    Raises:
        OSError: the kernel has not done it.
    """
    for buffer in list(_buffers.values()):
        if not any(buffer is one for one in needed):
            buffer.withhold()
    for content in list(_bytes.values()):
        wipe(content)


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
