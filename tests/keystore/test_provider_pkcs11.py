"""The provider for tokens, on SoftHSM: a token in software with a real PKCS#11 library."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tde.algorithms import Algorithm
from tde.errors import ProviderError, ProviderRefusedError, ProviderUnreachableError
from tde.keystore import (
    KeyOwner,
    Keystore,
    add_envelope,
    list_providers,
    rotate_master_key,
    try_envelope,
)
from tde.keystore.providers.envelope_provider import EnvelopeProvider
from tests.keystore.cheap_passphrase import CHEAP_KDF, PASSPHRASE

PIN = "1234567"
LIBRARIES = sorted(Path("/usr/lib").glob("**/libsofthsm2.so"))

pytestmark = pytest.mark.skipif(
    not (LIBRARIES and shutil.which("softhsm2-util")), reason="softhsm2 is not installed"
)


@pytest.fixture
def keystore(tmp_path: Path) -> Keystore:
    made = Keystore.create(tmp_path / "ks", PASSPHRASE, kdf=CHEAP_KDF)
    made.create_key(KeyOwner.wal(), Algorithm.AES256)
    return made


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of a token with AES keys and a pair of RSA keys, which takes long to make."""
    place = tmp_path_factory.mktemp("softhsm")
    (place / "tokens").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SOFTHSM2_CONF", str(configure(place)))
        subprocess.run(
            [
                *("softhsm2-util", "--init-token", "--free", "--label=tde"),
                *("--so-pin=1111", f"--pin={PIN}"),
            ],
            check=True,
            capture_output=True,
        )
        in_a_child(make_keys)
    return place / "tokens"


def configure(place: Path) -> Path:
    file = place / "softhsm2.conf"
    file.write_text(
        f"directories.tokendir = {place}/tokens\nobjectstore.backend = file\nlog.level = ERROR\n"
    )
    return file


@pytest.fixture
def token(tokens: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """What names the AES key of a token of this test."""
    shutil.copytree(tokens, tmp_path / "tokens")
    monkeypatch.setenv("SOFTHSM2_CONF", str(configure(tmp_path)))
    pin = tmp_path / "pin"
    pin.write_text(PIN + "\n")
    pin.chmod(0o600)
    return {"module": str(LIBRARIES[0]), "token": "tde", "key": "aes", "pin-file": str(pin)}


def make_keys() -> None:
    import pkcs11

    token = pkcs11.lib(str(LIBRARIES[0])).get_token(token_label="tde")
    with token.open(rw=True, user_pin=PIN) as session:
        session.generate_key(pkcs11.KeyType.AES, 256, label="aes", store=True)
        session.generate_keypair(pkcs11.KeyType.RSA, 2048, label="rsa", store=True)
        for _ in range(2):
            session.generate_key(pkcs11.KeyType.AES, 256, label="twice", store=True)


def remove_key() -> None:
    import pkcs11

    token = pkcs11.lib(str(LIBRARIES[0])).get_token(token_label="tde")
    with token.open(rw=True, user_pin=PIN) as session:
        (key,) = session.get_objects({pkcs11.Attribute.LABEL: "aes"})
        key.destroy()
        session.generate_key(pkcs11.KeyType.AES, 256, label="aes", store=True)


def in_a_child(action) -> None:
    """Run something with the library, which reads its configuration once in a process."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            action()
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0


def opens(keystore: Keystore, name: str = "hsm") -> None:
    Keystore.open_with(keystore.path, EnvelopeProvider(name)).close()


@pytest.mark.parametrize(("key", "wrapped_bytes"), [("aes", 1 + 12 + 32 + 16), ("rsa", 1 + 256)])
def test_it_opens_and_is_rotated(
    keystore: Keystore, token: dict[str, str], key: str, wrapped_bytes: int
) -> None:
    add_envelope(keystore, "hsm", "pkcs11", {**token, "key": key})
    opens(keystore)
    rotate_master_key(keystore.path, PASSPHRASE).close()
    assert try_envelope(keystore.path, "hsm").problem == ""
    (info,) = list_providers(keystore.path)
    assert info.header is not None
    assert len(info.header.wrapped_kek) == wrapped_bytes
    assert PIN not in info.file.read_text()


def test_aes_binds_to_the_envelope(keystore: Keystore, token: dict[str, str]) -> None:
    from tde.keystore.providers.apart import unwrap_apart
    from tde.keystore.providers.pkcs11 import Pkcs11Provider

    add_envelope(keystore, "hsm", "pkcs11", token)
    (info,) = list_providers(keystore.path)
    assert info.header is not None
    wrapped = info.header.wrapped_kek
    with pytest.raises(ProviderRefusedError, match="does not do it"):
        unwrap_apart(
            keystore.path, 20, lambda: Pkcs11Provider(token).unwrap(wrapped, b"elsewhere"), 32
        )


def test_refused_or_away(keystore: Keystore, token: dict[str, str], tmp_path: Path) -> None:
    add_envelope(keystore, "hsm", "pkcs11", token)
    pin = Path(token["pin-file"])
    pin.write_text("7654321")
    with pytest.raises(ProviderRefusedError, match="the PIN of the token tde is wrong"):
        opens(keystore)
    pin.write_text(PIN)
    in_a_child(remove_key)
    with pytest.raises(ProviderRefusedError, match="the token's key aes does not do it"):
        opens(keystore)
    (tmp_path / "tokens").rename(tmp_path / "unplugged")
    (tmp_path / "tokens").mkdir()
    with pytest.raises(ProviderUnreachableError, match="the token tde is not there"):
        opens(keystore)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"key": "none"}, ProviderRefusedError, "has no AES or RSA key none"),
        ({"key": "twice"}, ProviderRefusedError, "has 2 keys twice"),
        ({"token": "none"}, ProviderUnreachableError, "the token none is not there"),
        ({"module": "/nonexistent.so"}, ProviderError, "the PKCS#11 library failed"),
        ({"module": "libsofthsm2.so"}, ProviderError, "is no absolute path"),
        ({"pin-file": "/nonexistent"}, ProviderError, "could not read the pin file"),
        ({"pin-command": "echo 1"}, ProviderError, "both pin-file and pin-command"),
    ],
)
def test_parameters(
    keystore: Keystore,
    token: dict[str, str],
    changes: dict[str, str],
    error: type[Exception],
    message: str,
) -> None:
    with pytest.raises(error, match=message):
        add_envelope(keystore, "hsm", "pkcs11", {**token, **changes})
    assert not (keystore.path / "unlock").exists()


def test_a_pin_by_command_and_none(keystore: Keystore, token: dict[str, str]) -> None:
    given = {**token, "pin-command": f"echo {PIN}"}
    del given["pin-file"]
    add_envelope(keystore, "hsm", "pkcs11", given)
    opens(keystore)
    del given["pin-command"]
    # Without a PIN the token shows none of its private keys.
    with pytest.raises(ProviderRefusedError, match="has no AES or RSA key aes"):
        add_envelope(keystore, "public", "pkcs11", given)
