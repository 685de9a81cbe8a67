"""Keys derived for tablespaces without a record: frozen values and what they depend on."""

from __future__ import annotations

import hashlib
import hmac

import pytest

from tde.algorithms import Algorithm
from tde.errors import KeyMissingError, KeystoreDamagedError
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


def test_keys_are_derived_from_the_record_for_others(keystore_factory) -> None:
    keystore = keystore_factory("ks")
    with pytest.raises(KeyMissingError, match="other tablespaces"):
        keystore.derived_key(16400)
    keystore.create_key(KeyOwner.other_tablespaces(), Algorithm.AES128)
    algorithm, derived = keystore.derived_key(16400)
    assert algorithm is Algorithm.AES128
    assert keystore.derived_key(16401)[1] != derived
    keystore.create_key(KeyOwner.tablespace(16400), Algorithm.AES256)
    algorithm, own = keystore.key_of(KeyOwner.tablespace(16400))
    assert algorithm is Algorithm.AES256
    assert own == keystore.unwrap_key(KeyOwner.tablespace(16400))
    keystore.create_plaintext_entry(16402)
    assert keystore.key_of(KeyOwner.tablespace(16402)) is None


def test_a_key_with_a_name_is_found_by_it(keystore_factory) -> None:
    keystore = keystore_factory("ks")
    first = keystore.create_named_key(Algorithm.AES128)
    second = keystore.create_named_key(Algorithm.AES256)
    plain = keystore.create_named_key(None)
    algorithm, key = keystore.key_of(KeyOwner.named(first))
    assert (algorithm, len(key)) == (Algorithm.AES128, 32)
    assert keystore.key_of(KeyOwner.named(plain)) is None
    files = [keystore.path / "keys" / f"{key_id.hex}.key" for key_id in (first, second)]
    assert all(len(file.read_bytes()) == 160 for file in files)
    # A record under the name of another is not taken for it.
    files[0].write_bytes(files[1].read_bytes())
    with pytest.raises(KeystoreDamagedError, match="is the key record of"):
        keystore.key_of(KeyOwner.named(first))
