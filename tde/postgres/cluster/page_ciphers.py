"""Ciphers from keys of the keystore; the key itself does not outlive that."""

from __future__ import annotations

from tde.algorithms import Algorithm
from tde.keystore.crypto.secret import wipe
from tde.page.codec import PageCipher


def page_cipher(found: tuple[Algorithm, bytearray]) -> PageCipher:
    """Return the cipher of a key, which is wiped; the caller closes the cipher.

    Args:
        found: what ``key_of`` of a keystore or a key map returns.
    """
    algorithm, key = found
    try:
        return PageCipher(key, algorithm)
    finally:
        wipe(key)
