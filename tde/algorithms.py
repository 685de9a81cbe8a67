"""The page-encryption algorithms of the on-disk format."""

from __future__ import annotations

from enum import Enum


class Algorithm(Enum):
    """An XTS variant; the value is the algorithm code of key records (docs/format.md).

    XTS takes two AES keys, so a key is twice as long as the AES key size in the name.
    """

    AES128 = 1
    AES256 = 2

    @property
    def key_bytes(self) -> int:
        """Length of the whole XTS key in bytes (IEEE 1619: both halves)."""
        return 32 if self is Algorithm.AES128 else 64

    @property
    def aes_bits(self) -> int:
        """The AES key size in bits, 128 or 256; each half of the XTS key has this size."""
        return self.key_bytes * 4

    @property
    def label(self) -> str:
        """The name people read, for example ``AES-256-XTS``."""
        return f"AES-{self.aes_bits}-XTS"

    @classmethod
    def from_bits(cls, bits: int) -> Algorithm:
        """Return the algorithm for an AES key size in bits, 128 or 256.

        Raises:
            ValueError: for any other size.
        """
        try:
            return {128: cls.AES128, 256: cls.AES256}[bits]
        except KeyError:
            raise ValueError(f"AES key size must be 128 or 256, not {bits}") from None

    @classmethod
    def of_key(cls, key: bytes | bytearray) -> Algorithm:
        """Return the algorithm that a whole XTS key is for, which its length tells."""
        return next(known for known in cls if known.key_bytes == len(key))
