"""Keys derived for tablespaces without a record: frozen values and what they depend on."""

from __future__ import annotations

import hashlib
import hmac

import pytest

from tde.algorithms import Algorithm
from tde.errors import KeyMissingError
from tde.keystore import KeyOwner
from tde.keystore.crypto.derivation import derive_tablespace_key


def hkdf(key: bytes, info: bytes, length: int) -> bytes:
    """RFC 5869 with SHA-256 and no salt, written out as a second implementation."""
    pseudo_random_key = hmac.digest(bytes(32), key, hashlib.sha256)
    block, result, number = b"", b"", 1
    while len(result) < length:
        block = hmac.digest(pseudo_random_key, block + info + bytes([number]), hashlib.sha256)
        result, number = result + block, number + 1
    return result[:length]


@pytest.mark.parametrize("algorithm", list(Algorithm))
@pytest.mark.parametrize("oid", [1, 16384, 2**32 - 1])
def test_derivation_is_hkdf(algorithm: Algorithm, oid: int) -> None:
    base = bytearray(range(algorithm.key_bytes))
    info = b"tde tablespace\0" + oid.to_bytes(4, "big")
    expected = hkdf(bytes(base), info, algorithm.key_bytes)
    assert derive_tablespace_key(base, oid, algorithm) == expected


def test_own_record_comes_before_the_derived_key(keystore_factory) -> None:
    keystore = keystore_factory("ks")
    with pytest.raises(KeyMissingError, match="tablespace 16400"):
        keystore.tablespace_key(16400)
    keystore.create_key(KeyOwner.other_tablespaces(), Algorithm.AES128)
    algorithm, derived = keystore.tablespace_key(16400)
    assert algorithm is Algorithm.AES128
    assert keystore.tablespace_key(16401)[1] != derived
    keystore.create_key(KeyOwner.tablespace(16400), Algorithm.AES256)
    algorithm, own = keystore.tablespace_key(16400)
    assert algorithm is Algorithm.AES256
    assert own == keystore.unwrap_key(KeyOwner.tablespace(16400))
    keystore.create_plaintext_entry(16402)
    assert keystore.tablespace_key(16402) is None
