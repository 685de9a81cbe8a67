"""The implementations of page encryption that are compared, all doing the same work.

Every one of them encrypts each 8 KiB page as one AES-XTS data unit under the page's own tweak, and
each must give the very bytes of ``tde._core`` before it is measured.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import numpy as np
import numpy.typing as npt

from tde import Algorithm, PageCipher, RelationIdentity, _core
from tde.page.codec import PAGE_SIZE, linked_page_cipher
from tde.page.libcrypto import SYSTEM

PAGE_BYTES = PAGE_SIZE
IDENTITY = RelationIdentity(database=5, relfilenumber=16384)

Pages = npt.NDArray[np.uint8]
Work = Callable[[], object]

_BLOCK = 16
_BLOCKS = PAGE_BYTES // _BLOCK


def key_of(algorithm: Algorithm) -> bytes:
    """Return a key; which one does not matter for speed, but its halves must differ."""
    return bytes(range(algorithm.key_bytes))


def tweaks_of(count: int) -> list[bytes]:
    """Return the tweaks of the first pages of the file that every backend encrypts."""
    return [_core.tweak(IDENTITY.to_core(), block) for block in range(count)]


class Backend(ABC):
    """One implementation.

    Attributes:
        name: what raw results and options call it.
        label: what people read.
        threaded: whether it can share a batch among threads.
        library: which of the run's libcryptos it works with, by its name; empty for one of its own.
    """

    name: str
    label: str
    threaded = False
    library = ""

    @abstractmethod
    def missing(self) -> str | None:
        """Say why it cannot run here, None when it can."""

    @abstractmethod
    def prepare(
        self, algorithm: Algorithm, pages: Pages, out: Pages, *, decrypt: bool, threads: int
    ) -> Work:
        """Return a function that processes the whole batch once.

        ``out`` is ``pages`` itself for work in place.
        """


class TdeCore(Backend):
    """The product: one call for the batch, the key scheduled once.

    Args:
        library: the name of the libcrypto it works with.
        linked: whether that is the system's although another one was chosen.
    """

    name = "tde"
    label = "tde._core"
    threaded = True

    def __init__(self, library: str = SYSTEM, *, linked: bool = False) -> None:
        self.library = library
        self._make = linked_page_cipher if linked else PageCipher

    def missing(self) -> str | None:
        """None: it is part of this package."""
        return None

    def prepare(
        self, algorithm: Algorithm, pages: Pages, out: Pages, *, decrypt: bool, threads: int
    ) -> Work:
        """Return the batch call of a cipher that lives as long as the function."""
        cipher = self._make(key_of(algorithm), algorithm)
        process = cipher.decrypt_pages if decrypt else cipher.encrypt_pages
        return lambda: process(pages, out, identity=IDENTITY, threads=threads)


class Pyca(Backend):
    """The package ``cryptography``: a new context, and a new key schedule, for every page.

    Its XTS contexts take their tweak when they are made and cannot be given another one, so that
    is how a program has to use it.
    """

    name = "cryptography"
    label = "cryptography"

    def missing(self) -> str | None:
        """None: the product depends on it."""
        return None

    def prepare(
        self, algorithm: Algorithm, pages: Pages, out: Pages, *, decrypt: bool, threads: int
    ) -> Work:
        """Return a loop over the pages."""
        from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

        aes = algorithms.AES(key_of(algorithm))
        tweaks = tweaks_of(len(pages) // PAGE_BYTES)
        source, target = pages.data, out.data

        def work() -> None:
            for number, tweak in enumerate(tweaks):
                cipher = Cipher(aes, modes.XTS(tweak))
                context = cipher.decryptor() if decrypt else cipher.encryptor()
                at = slice(number * PAGE_BYTES, (number + 1) * PAGE_BYTES)
                context.update_into(source[at], target[at])

        return work


class Mbedtls(Backend):
    """The package python-mbedtls, with AES-XTS of Mbed TLS: a new cipher for every page.

    As in cryptography, a cipher has one tweak for its whole life.
    """

    name = "mbedtls"
    label = "python-mbedtls"

    def missing(self) -> str | None:
        """Say so when the package is not installed: the product does not need it."""
        if find_spec("mbedtls") is None:
            return "python-mbedtls is not installed (pip install python-mbedtls)"
        return None

    def prepare(
        self, algorithm: Algorithm, pages: Pages, out: Pages, *, decrypt: bool, threads: int
    ) -> Work:
        """Return a loop over the pages."""
        from mbedtls import cipher

        key = key_of(algorithm)
        tweaks = tweaks_of(len(pages) // PAGE_BYTES)
        source, target = pages.data, out.data

        def work() -> None:
            for number, tweak in enumerate(tweaks):
                aes: Any = cipher.AES.new(key, cipher.MODE_XTS, tweak)
                process = aes.decrypt if decrypt else aes.encrypt
                at = slice(number * PAGE_BYTES, (number + 1) * PAGE_BYTES)
                target[at] = process(source[at])

        return work


class Pycryptodome(Backend):
    """The package pycryptodome, which has no XTS: XTS from its AES-ECB.

    A batch takes two calls of ECB (all tweaks, then all pages) and the rest is NumPy over the whole
    batch at once, so that no Python loop over pages or blocks weighs on it.
    """

    def __init__(self, *, use_aesni: bool) -> None:
        self._use_aesni = use_aesni
        self.name = "pycryptodome" if use_aesni else "pycryptodome-software"
        self.label = "pycryptodome" + ("" if use_aesni else ", no AES-NI")

    def missing(self) -> str | None:
        """Say so when the package is not installed: the product does not need it."""
        if find_spec("Crypto") is None:
            return "pycryptodome is not installed (pip install pycryptodome)"
        return None

    def prepare(
        self, algorithm: Algorithm, pages: Pages, out: Pages, *, decrypt: bool, threads: int
    ) -> Work:
        """Return XTS made of two ECB calls."""
        from Crypto.Cipher import AES

        key = key_of(algorithm)
        half = len(key) // 2
        data, tweak = (
            AES.new(part, AES.MODE_ECB, use_aesni=self._use_aesni)
            for part in (key[:half], key[half:])
        )
        tweaks = b"".join(tweaks_of(len(pages) // PAGE_BYTES))
        process: Any = data.decrypt if decrypt else data.encrypt
        source, target = pages.view("<u8"), out.view("<u8")

        def work() -> None:
            masks = expand_tweaks(np.frombuffer(tweak.encrypt(tweaks), "<u8").reshape(-1, 2))
            mixed = (source ^ masks).view(np.uint8)
            process(mixed.data, output=mixed.data)
            np.bitwise_xor(mixed.view("<u8"), masks, out=target)

        return work


def expand_tweaks(first: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Return the masks of all blocks of all pages, given that of each page's first block.

    The mask of block j is the first one times x^j in GF(2^128) (IEEE 1619). Doubling the number
    of known masks in each step takes nine steps instead of 511.

    Args:
        first: one row of two little-endian words per page.
    """
    masks = np.empty((len(first), _BLOCKS, 2), np.uint64)
    masks[:, 0] = first
    known = 1
    while known < _BLOCKS:
        part = masks[:, :known]
        for shift in _shifts(known):
            part = _times_x(part, shift)
        masks[:, known : 2 * known] = part
        known *= 2
    return masks.reshape(-1)


def _shifts(power: int) -> list[int]:
    """Split a power of x into steps that :func:`_times_x` can take."""
    return [power] if power <= 32 else [32] * (power // 32)


def _times_x(words: npt.NDArray[np.uint64], power: int) -> npt.NDArray[np.uint64]:
    """Multiply by x^power, at most 32, modulo x^128 + x^7 + x^2 + x + 1."""
    shift, back = np.uint64(power), np.uint64(64 - power)
    low, high = words[..., 0], words[..., 1]
    over = high >> back
    product = np.empty_like(words)
    product[..., 0] = (low << shift) ^ over ^ (over << 1) ^ (over << 2) ^ (over << 7)
    product[..., 1] = (high << shift) | (low >> back)
    return product


def all_backends() -> list[Backend]:
    """Return every implementation, the product first."""
    return [
        TdeCore(),
        Pyca(),
        Mbedtls(),
        Pycryptodome(use_aesni=True),
        Pycryptodome(use_aesni=False),
    ]
