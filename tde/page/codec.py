"""Encrypt and decrypt PostgreSQL pages in memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn, TypeVar, overload

from tde import _core
from tde.algorithms import Algorithm
from tde.closing import Closing
from tde.errors import IdentityError, PageError
from tde.page.identity import PageIdentity
from tde.page.libcrypto import make_cipher

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from tde._core import PageBuffer

    OutT = TypeVar("OutT", bound=PageBuffer)

#: Bytes of a page, and of the AES-XTS data unit that it is encrypted as.
PAGE_SIZE = _core.BLOCK_SIZE

#: One more than the largest PostgreSQL block number.
_BLOCK_LIMIT = 1 << 32


class PageCipher(Closing):
    """AES-XTS with one key over 8 KiB pages, each page tied to its identity.

    Ciphertext is as long as plaintext and the same every time for the same key, identity
    and block.  A page of zeros stays a page of zeros.  XTS hides content; it does not
    detect changes, which is left to PostgreSQL's data checksums.

    Any number of threads may use one cipher at the same time; the GIL is released while
    pages are processed.  Use it as a context manager, or call :meth:`close`, to wipe the key.

    Args:
        key: 32 bytes for AES128, 64 bytes for AES256 (two AES keys, which must differ).  The
            cipher keeps its own copy outside Python's memory.
        algorithm: an :class:`~tde.algorithms.Algorithm` or its name.

    Raises:
        KeyLengthError: when the key's length does not fit the algorithm.
        PageError: when the algorithm is not known or the key's two halves are equal.
    """

    __slots__ = ("_algorithm", "_core")

    def __init__(self, key: Buffer, algorithm: Algorithm | str = Algorithm.AES256) -> None:
        self._algorithm = _to_algorithm(algorithm)
        self._core = make_cipher(self._algorithm.value, key)

    @property
    def algorithm(self) -> Algorithm:
        """The algorithm that this cipher was made for."""
        return self._algorithm

    @overload
    def encrypt_pages(
        self,
        pages: PageBuffer,
        out: None = None,
        *,
        identity: PageIdentity,
        first_block: int = 0,
        threads: int = 1,
    ) -> bytes: ...

    @overload
    def encrypt_pages(
        self,
        pages: PageBuffer,
        out: OutT,
        *,
        identity: PageIdentity,
        first_block: int = 0,
        threads: int = 1,
    ) -> OutT: ...

    def encrypt_pages(
        self,
        pages: PageBuffer,
        out: OutT | None = None,
        *,
        identity: PageIdentity,
        first_block: int = 0,
        threads: int = 1,
    ) -> OutT | bytes:
        """Encrypt consecutive pages of one file.

        Args:
            pages: a contiguous buffer of whole 8192-byte pages, possibly none: bytes, a
                bytearray, memoryview, NumPy array or mmap, at any alignment.
            out: a writable contiguous buffer of the same length to fill.  It may be ``pages``
                itself (in place) but must not overlap it otherwise.
            identity: the relation fork or WAL segment that the pages belong to.
            first_block: number of the first page in the fork or segment, from 0.
            threads: how many threads may share the work, 1 to 64.  Fewer are used for
                batches so small that starting a thread would cost more than it saves.
                The threads stay for the next batch: after one they look for more for 0.1 ms,
                which takes CPU time, then sleep, and end after a second.

        Returns:
            ``out``, or new bytes when it was not given.

        Raises:
            BufferLengthError: when ``pages`` is not a whole number of pages or ``out`` has
                another length.
            IdentityError: when the pages do not fit the file: a fork has at most 2**32 pages,
                a WAL segment 2**24.
            PageError: when ``out`` is read-only or overlaps ``pages``, a buffer is not
                contiguous, ``threads`` is out of range, or the cipher is closed.
        """
        if not 0 <= first_block < _BLOCK_LIMIT or threads < 1:
            _refuse(first_block, threads)
        core = identity.to_core()
        return self._core.encrypt_blocks(pages, out, core, first_block, threads)

    @overload
    def decrypt_pages(
        self,
        pages: PageBuffer,
        out: None = None,
        *,
        identity: PageIdentity,
        first_block: int = 0,
        threads: int = 1,
    ) -> bytes: ...

    @overload
    def decrypt_pages(
        self,
        pages: PageBuffer,
        out: OutT,
        *,
        identity: PageIdentity,
        first_block: int = 0,
        threads: int = 1,
    ) -> OutT: ...

    def decrypt_pages(
        self,
        pages: PageBuffer,
        out: OutT | None = None,
        *,
        identity: PageIdentity,
        first_block: int = 0,
        threads: int = 1,
    ) -> OutT | bytes:
        """Decrypt consecutive pages of one file.

        Arguments, result and errors are those of :meth:`encrypt_pages`.  A wrong key or
        identity is not noticed here: the result is then noise.
        """
        if not 0 <= first_block < _BLOCK_LIMIT or threads < 1:
            _refuse(first_block, threads)
        core = identity.to_core()
        return self._core.decrypt_blocks(pages, out, core, first_block, threads)

    def close(self) -> None:
        """Wipe the key.  Calls that already run finish; later ones raise PageError."""
        self._core.close()

    @property
    def closed(self) -> bool:
        """Whether the key was wiped."""
        return self._core.closed

    def __repr__(self) -> str:
        state = ", closed" if self.closed else ""
        return f"<PageCipher {self._algorithm.label}{state}>"

    def __reduce__(self) -> NoReturn:
        """Refuse copies and pickles, which would spread the key."""
        raise TypeError("a PageCipher cannot be copied or pickled: it holds a key")


def linked_page_cipher(key: Buffer, algorithm: Algorithm) -> PageCipher:
    """Return a cipher of the system's library whichever was chosen, to measure it beside that."""
    cipher = PageCipher(key, algorithm)
    cipher._core.close()
    cipher._core = make_cipher(algorithm.value, key, linked=True)
    return cipher


def _to_algorithm(algorithm: Algorithm | str) -> Algorithm:
    if isinstance(algorithm, Algorithm):
        return algorithm
    try:
        return Algorithm[algorithm.upper()]
    except KeyError:
        known = " or ".join(known.name for known in Algorithm)
        raise PageError(f"algorithm must be {known}, not {algorithm!r}") from None


def _refuse(first_block: int, threads: int) -> NoReturn:
    """Say which of the two is out of range, apart from the calls that shall be fast."""
    if not 0 <= first_block < _BLOCK_LIMIT:
        raise IdentityError(f"first_block must be 0 to {_BLOCK_LIMIT - 1}, not {first_block}")
    raise PageError(f"threads must be at least 1, not {threads}")
