"""The provider for KMIP, on the server that PyKMIP brings."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
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
from tests.keystore.certificates import Certificates, make_certificates
from tests.keystore.cheap_passphrase import CHEAP_KDF, PASSPHRASE

_PATIENCE = 120  # Seconds for the server to start, which loads a database.

#: Makes an AES key that is active, and one that is not.
MAKE_KEYS = """
import sys
from kmip import enums
from kmip.pie.client import ProxyKmipClient
directory, port = sys.argv[1:]
masks = enums.CryptographicUsageMask
client = ProxyKmipClient(
    hostname="127.0.0.1", port=int(port), cert=f"{directory}/client.pem",
    key=f"{directory}/client.key", ca=f"{directory}/ca.pem", config="none",
    kmip_version=enums.KMIPVersion.KMIP_1_4,
)
with client:
    made = [
        client.create(enums.CryptographicAlgorithm.AES, 256, cryptographic_usage_mask=usage)
        for usage in 2 * ([masks.ENCRYPT, masks.DECRYPT],)
    ]
    client.activate(made[0])
    print(*made)
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Certificates, int]]:
    """The certificates of a server that runs, and its port."""
    directory = tmp_path_factory.mktemp("kmip")
    certificates = make_certificates(directory / "server")
    program = Path(__file__).with_name("kmip_server.py")
    with (directory / "output").open("w") as output:
        process = subprocess.Popen(
            [sys.executable, program, certificates.directory],
            stdout=output,
            stderr=output,
            env={**os.environ, "HOME": str(directory)},
        )
    port = certificates.directory / "port"
    try:
        until = time.monotonic() + _PATIENCE
        while not port.exists():
            assert process.poll() is None, (directory / "output").read_text()
            assert time.monotonic() < until, "PyKMIP's server does not start"
            time.sleep(0.05)
        number = int(port.read_text())
        made = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", MAKE_KEYS, certificates.directory, str(number)],
            capture_output=True,
            text=True,
        )
        assert made.stdout == "1 2\n", made.stderr
        yield certificates, number
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def keystore(tmp_path: Path) -> Keystore:
    made = Keystore.create(tmp_path / "ks", PASSPHRASE, kdf=CHEAP_KDF)
    made.create_key(KeyOwner.wal(), Algorithm.AES256)
    return made


@pytest.fixture
def parameters(server: tuple[Certificates, int]) -> dict[str, str]:
    certificates, port = server
    return {
        "host": "localhost",
        "port": str(port),
        "key-id": "1",
        "cert-file": str(certificates.certificate("client")),
        "key-file": str(certificates.key("client")),
        "ca-file": str(certificates.ca),
    }


def opens(keystore: Keystore, name: str = "kmip") -> None:
    Keystore.open_with(keystore.path, EnvelopeProvider(name)).close()


@pytest.mark.parametrize("version", ["1.4", "2.0"])
def test_it_opens_and_is_rotated(
    keystore: Keystore, parameters: dict[str, str], version: str
) -> None:
    add_envelope(keystore, "kmip", "kmip", {**parameters, "version": version})
    opens(keystore)
    rotate_master_key(keystore.path, PASSPHRASE).close()
    assert try_envelope(keystore.path, "kmip").problem == ""
    (info,) = list_providers(keystore.path)
    assert info.header is not None
    assert len(info.header.wrapped_kek) == 12 + 32 + 16


def test_the_database_of_the_library_is_not_loaded_here(
    keystore: Keystore, parameters: dict[str, str]
) -> None:
    """It takes ten times as long as all else that opens a keystore."""
    add_envelope(keystore, "kmip", "kmip", parameters)
    opens(keystore)
    assert not {"kmip", "sqlalchemy"} & sys.modules.keys()


def test_it_binds_to_the_envelope(keystore: Keystore, parameters: dict[str, str]) -> None:
    from tde.keystore.providers.apart import unwrap_apart
    from tde.keystore.providers.kmip import KmipProvider

    add_envelope(keystore, "kmip", "kmip", parameters)
    (info,) = list_providers(keystore.path)
    assert info.header is not None
    wrapped = info.header.wrapped_kek
    with pytest.raises(ProviderError, match="localhost answers GENERAL_FAILURE"):
        unwrap_apart(
            keystore.path, 20, lambda: KmipProvider(parameters).unwrap(wrapped, b"elsewhere"), 32
        )


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("9", "ITEM_NOT_FOUND"),
        ("2", "PERMISSION_DENIED: The encryption key must be in the Active state"),
    ],
)
def test_keys_that_do_not_serve(
    keystore: Keystore, parameters: dict[str, str], key: str, message: str
) -> None:
    with pytest.raises(ProviderRefusedError, match=message):
        add_envelope(keystore, "kmip", "kmip", {**parameters, "key-id": key})


def test_tls_is_checked_on_both_sides(
    keystore: Keystore, parameters: dict[str, str], tmp_path: Path
) -> None:
    wrong = make_certificates(tmp_path / "wrong")
    with pytest.raises(ProviderUnreachableError, match="CERTIFICATE_VERIFY_FAILED"):
        add_envelope(keystore, "kmip", "kmip", {**parameters, "ca-file": str(wrong.ca)})
    stranger = {
        "cert-file": str(wrong.certificate("client")),
        "key-file": str(wrong.key("client")),
    }
    with pytest.raises(ProviderUnreachableError, match="no answer from localhost"):
        add_envelope(keystore, "kmip", "kmip", {**parameters, **stranger})
    wrong.key("client").chmod(0o640)
    with pytest.raises(ProviderError, match="is open to other users"):
        add_envelope(keystore, "kmip", "kmip", {**parameters, **stranger})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"port": "0"}, "0 is no port"),
        ({"port": "kmip"}, "kmip is no port"),
        ({"version": "1.2"}, "does not know KMIP 1.2"),
        ({"ca-file": "/nonexistent"}, "certificates cannot be used"),
        ({"key-file": "/nonexistent"}, "key-file /nonexistent cannot be read"),
        ({"cert-file": "client.pem"}, "is no absolute path"),
    ],
)
def test_parameters(
    keystore: Keystore, parameters: dict[str, str], changes: dict[str, str], message: str
) -> None:
    with pytest.raises(ProviderError, match=message):
        add_envelope(keystore, "kmip", "kmip", {**parameters, **changes})


HOSTILE = {
    "nothing": b"",
    "too long": b"\x42\x00\x7b\x01\x7f\xff\xff\xff",
    "no KMIP": b"HTTP/1.1 400 Bad Request\r\n\r\n" + bytes(200),
    "cut": b"\x42\x00\x7b\x01\x00\x00\x00\x08\x42\x00\x7a\x01\x00\x00\x00\x00",
}


@pytest.mark.parametrize("answer", HOSTILE.values(), ids=HOSTILE)
def test_answers_that_are_none(
    keystore: Keystore, parameters: dict[str, str], server: tuple[Certificates, int], answer: bytes
) -> None:
    import ssl

    certificates, _ = server
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates.certificate("server"), certificates.key("server"))
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with context.wrap_socket(connection, server_side=True) as stream:
                stream.recv(4096)
                stream.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        port = str(listener.getsockname()[1])
        with pytest.raises(ProviderError):
            add_envelope(keystore, "kmip", "kmip", {**parameters, "port": port})
        thread.join()
