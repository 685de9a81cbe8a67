"""Wrapping of keys by keys: AES-256-GCM with bound context.

Why a nonce never repeats under one key, which GCM must have:

* A key-encryption key comes from a salt of its own and wraps exactly one message, the
  master key. Another passphrase means another salt and so another key.
* A master key wraps a record for the WAL, one per tablespace and one for all others. Nonces
  are 96 random bits; after even 2**20 records the chance that any two are equal is below
  2**-56, well inside NIST SP 800-38D's limit of 2**32 messages for random nonces.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import GCM

from tde.keystore.crypto.secret import SecretBuffer

NONCE_BYTES = 12
TAG_BYTES = 16


@dataclass(frozen=True)
class Wrapped:
    """A wrapped key: the nonce (12 bytes), the ciphertext (as long as the key), the tag (16)."""

    nonce: bytes
    ciphertext: bytes
    tag: bytes


class UnwrapError(Exception):
    """The key, the wrapped bytes or the context differ from those at wrapping time."""


def new_nonce() -> bytes:
    """Return 96 random bits; every call of :func:`wrap` takes a new one."""
    return os.urandom(NONCE_BYTES)


def wrap(wrapping_key: SecretBuffer, secret: SecretBuffer, nonce: bytes, context: bytes) -> Wrapped:
    """Encrypt ``secret`` under a 32-byte key, authenticating ``context`` with it.

    The nonce is an argument because a key record stores it inside its own context.
    """
    with wrapping_key.view as key, secret.view as plaintext:
        encryptor = Cipher(AES(key), GCM(nonce)).encryptor()
        encryptor.authenticate_additional_data(context)
        ciphertext = encryptor.update(plaintext) + encryptor.finalize()
        return Wrapped(nonce, ciphertext, encryptor.tag)


def unwrap(wrapping_key: SecretBuffer, wrapped: Wrapped, context: bytes) -> SecretBuffer:
    """Return the secret that :func:`wrap` was given; the caller closes it.

    Raises:
        UnwrapError: authentication failed; nothing of the plaintext is kept.
    """
    secret = SecretBuffer(len(wrapped.ciphertext))
    try:
        unwrap_into(secret, wrapping_key, wrapped, context)
    except BaseException:
        secret.close()
        raise
    return secret


def unwrap_into(
    secret: SecretBuffer, wrapping_key: SecretBuffer, wrapped: Wrapped, context: bytes
) -> None:
    """As :func:`unwrap`, into a buffer of the caller, who may use it for many keys.

    Raises:
        UnwrapError: authentication failed; what is in the buffer must not be used.
    """
    with wrapping_key.view as key, secret.view as plaintext:
        decryptor = Cipher(AES(key), GCM(wrapped.nonce, wrapped.tag)).decryptor()
        decryptor.authenticate_additional_data(context)
        # update_into writes into our locked page; update would leave a bytes object behind.
        decryptor.update_into(wrapped.ciphertext, plaintext)
        try:
            decryptor.finalize()
        except InvalidTag as error:
            raise UnwrapError from error
