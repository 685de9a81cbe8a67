"""Key derivation, wrapping and secret memory."""

from __future__ import annotations

import gc
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from common import CHEAP_KDF
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from tde.errors import KdfParametersError
from tde.keystore.crypto.kdf import KdfParameters, derive_kek
from tde.keystore.crypto.secret import SecretBuffer, random_secret, wipe
from tde.keystore.crypto.wrapping import UnwrapError, Wrapped, new_nonce, unwrap, wrap


@pytest.fixture
def wrapping_key() -> Iterator[SecretBuffer]:
    with random_secret(32) as key:
        yield key


def test_default_cost_is_the_second_choice_of_rfc_9106() -> None:
    assert KdfParameters() == KdfParameters(memory_kib=64 * 1024, iterations=3, lanes=4)


@pytest.mark.parametrize(
    "parameters",
    [
        {"memory_kib": 8191},
        {"memory_kib": 1024 * 1024 + 1},
        {"iterations": 0},
        {"iterations": 17},
        {"lanes": 0},
        {"lanes": 5},
        {"lanes": True},
        {"iterations": 3.0},
        {"iterations": "3"},
    ],
)
def test_cost_out_of_bounds_is_refused(parameters: dict[str, int]) -> None:
    with pytest.raises(KdfParametersError, match=next(iter(parameters))):
        KdfParameters(**parameters)


def test_derivation_stays_what_it_was() -> None:
    # A frozen value: if this changes, existing keystores no longer open.
    with derive_kek(b"correct horse", b"saltsaltsaltsalt", CHEAP_KDF) as kek, kek.view as view:
        assert view.hex() == "ba529c8fa549efc44dc274bf309333cbcee5f09609286c4d319eb2ce071ec7a3"


def test_derivation_depends_on_every_input() -> None:
    inputs = [
        (b"correct horse", b"s" * 16, CHEAP_KDF),
        (b"correct hors3", b"s" * 16, CHEAP_KDF),
        (b"correct horse", b"t" * 16, CHEAP_KDF),
        (b"correct horse", b"s" * 16, KdfParameters(8193, 1, 1)),
        (b"correct horse", b"s" * 16, KdfParameters(8192, 2, 1)),
        (b"correct horse", b"s" * 16, KdfParameters(8192, 1, 2)),
    ]
    derived = set()
    for passphrase, salt, parameters in inputs:
        with derive_kek(passphrase, salt, parameters) as kek, kek.view as view:
            derived.add(view.hex())
    assert len(derived) == len(inputs)


def test_wrapping_is_plain_aes_256_gcm(wrapping_key: SecretBuffer) -> None:
    with random_secret(64) as secret, secret.view as plaintext, wrapping_key.view as key:
        wrapped = wrap(wrapping_key, secret, new_nonce(), b"context")
        reference = AESGCM(bytes(key)).encrypt(wrapped.nonce, bytes(plaintext), b"context")
    assert wrapped.ciphertext + wrapped.tag == reference


def test_unwrapping_returns_the_secret(wrapping_key: SecretBuffer) -> None:
    with random_secret(64) as secret:
        wrapped = wrap(wrapping_key, secret, new_nonce(), b"context")
        with unwrap(wrapping_key, wrapped, b"context") as again:
            assert again.view == secret.view


def test_unwrapping_needs_the_same_key_and_context(wrapping_key: SecretBuffer) -> None:
    with random_secret(32) as secret, random_secret(32) as other_key:
        wrapped = wrap(wrapping_key, secret, new_nonce(), b"context")
        with pytest.raises(UnwrapError):
            unwrap(other_key, wrapped, b"context")
        with pytest.raises(UnwrapError):
            unwrap(wrapping_key, wrapped, b"Context")
        with pytest.raises(UnwrapError):
            unwrap(wrapping_key, Wrapped(new_nonce(), wrapped.ciphertext, wrapped.tag), b"context")


def test_nonces_differ() -> None:
    assert len({new_nonce() for _ in range(1000)}) == 1000


def test_secret_memory_is_locked_and_kept_out_of_core_dumps() -> None:
    with SecretBuffer(32) as secret:
        if not secret.locked:
            pytest.skip("this system does not let us lock memory (RLIMIT_MEMLOCK)")
        smaps = Path("/proc/self/smaps").read_text()
        flags = re.findall(r"^VmFlags:(.*)$", smaps, re.MULTILINE)
        # lo: locked; dd: not included in dumps.
        assert any({"lo", "dd"} <= set(line.split()) for line in flags)


def test_secret_is_not_shown() -> None:
    with SecretBuffer(32) as secret, secret.view as view:
        view[:] = b"s3cr3t" * 5 + b"!!"
        assert "s3cr3t" not in repr(secret) + str(secret) + str(vars(secret))


def test_closing_wipes_even_when_something_still_looks_at_the_memory() -> None:
    secret = random_secret(32)
    view = secret.view
    with pytest.raises(BufferError):
        secret.close()
    assert bytes(view) == bytes(32)
    view.release()
    secret.close()
    secret.close()


def test_forgotten_secret_is_unmapped() -> None:
    secret = random_secret(32)
    memory = secret._map
    del secret
    gc.collect()
    assert memory.closed


def test_random_secrets_differ() -> None:
    with random_secret(32) as one, random_secret(32) as two:
        assert one.view != two.view
        assert bytes(one.view) != bytes(32)


def test_wipe_keeps_the_length() -> None:
    buffer = bytearray(b"secret")
    wipe(buffer)
    assert buffer == bytes(6)
