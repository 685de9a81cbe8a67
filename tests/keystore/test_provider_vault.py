"""The provider for Transit of HashiCorp Vault and OpenBao, on a small server that conforms."""

from __future__ import annotations

import base64
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hvac
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
from tde.keystore.crypto.secret import random_secret
from tde.keystore.providers import vault
from tde.keystore.providers.envelope_provider import EnvelopeProvider
from tde.keystore.providers.vault import VaultProvider
from tests.keystore.certificates import make_certificates
from tests.keystore.cheap_passphrase import CHEAP_KDF, PASSPHRASE
from tests.keystore.vault_server import ROLE, SECRET, TOKEN, VaultServer, vault_server


@pytest.fixture
def keystore(tmp_path: Path) -> Keystore:
    made = Keystore.create(tmp_path / "ks", PASSPHRASE, kdf=CHEAP_KDF)
    made.create_key(KeyOwner.wal(), Algorithm.AES256)
    return made


@pytest.fixture
def server() -> Iterator[VaultServer]:
    with vault_server() as running:
        yield running


def secret(place: Path, name: str, value: str) -> str:
    file = place / name
    file.write_text(value + "\n")
    file.chmod(0o600)
    return str(file)


def parameters(server: VaultServer, place: Path, **more: str) -> dict[str, str]:
    given = {
        "address": f"http://127.0.0.1:{server.port}",
        "key": "tde",
        "token-file": secret(place, "token", TOKEN),
    }
    return {**given, **{name.replace("_", "-"): value for name, value in more.items()}}


def opens(keystore: Keystore, name: str = "vault") -> None:
    Keystore.open_with(keystore.path, EnvelopeProvider(name)).close()


def test_it_opens_and_is_rotated(keystore: Keystore, server: VaultServer, tmp_path: Path) -> None:
    given = parameters(server, tmp_path, namespace="team-a")
    add_envelope(keystore, "vault", "vault", given)
    opens(keystore)
    rotate_master_key(keystore.path, PASSPHRASE).close()
    assert try_envelope(keystore.path, "vault").problem == ""
    assert set(server.requests) == {
        (f"/v1/transit/{verb}/tde", "team-a", TOKEN) for verb in ("encrypt", "decrypt")
    }
    (info,) = list_providers(keystore.path)
    assert info.header is not None
    assert info.header.wrapped_kek.startswith(b"vault:v1:")
    assert TOKEN not in info.file.read_text()


def test_the_server_is_what_the_usual_client_takes_it_for(
    server: VaultServer, tmp_path: Path
) -> None:
    """And each decrypts what the other has encrypted."""
    client = hvac.Client(url=f"http://127.0.0.1:{server.port}")
    client.auth.approle.login(role_id=ROLE, secret_id=SECRET)
    provider = VaultProvider(parameters(server, tmp_path, bind="context", key="derived"))
    context = b"tde-unlock:1:a:b:c"
    encoded = base64.b64encode(context).decode()
    with random_secret(32) as kek, kek.view as wanted:
        ciphertext = provider.wrap(kek, context).decode()
        answer = client.secrets.transit.decrypt_data("derived", ciphertext, context=encoded)
        assert base64.b64decode(answer["data"]["plaintext"]) == wanted
        plaintext = base64.b64encode(wanted).decode()
        answer = client.secrets.transit.encrypt_data("derived", plaintext, context=encoded)
        sealed = answer["data"]["ciphertext"].encode()
        with provider.unwrap(sealed, context) as found, found.view as given:
            assert given == wanted
    with pytest.raises(hvac.exceptions.InvalidRequest, match="missing 'context'"):
        client.secrets.transit.encrypt_data("derived", plaintext)
    client.token = "hvs.none"
    with pytest.raises(hvac.exceptions.Forbidden):
        client.secrets.transit.encrypt_data("tde", plaintext)
    server.sealed = True
    with pytest.raises(hvac.exceptions.VaultDown):
        client.secrets.transit.encrypt_data("tde", plaintext)


@pytest.mark.parametrize("bind", ["associated-data", "context", "no"])
def test_what_it_binds_to(
    keystore: Keystore, server: VaultServer, tmp_path: Path, bind: str
) -> None:
    key = "derived" if bind == "context" else "tde"
    given = parameters(server, tmp_path, bind=bind, key=key)
    add_envelope(keystore, "vault", "vault", given)
    (info,) = list_providers(keystore.path)
    assert info.header is not None
    provider = VaultProvider(given)
    elsewhere = b"tde-unlock:1:another:keystore:vault"
    if bind == "no":
        provider.unwrap(info.header.wrapped_kek, elsewhere).close()
    else:
        with pytest.raises(ProviderRefusedError, match="message authentication failed"):
            provider.unwrap(info.header.wrapped_kek, elsewhere)


def test_approle_by_file_and_command(
    keystore: Keystore, server: VaultServer, tmp_path: Path
) -> None:
    given = parameters(server, tmp_path, role_id_file=secret(tmp_path, "role", ROLE))
    del given["token-file"]
    given["secret-id-command"] = f"echo {SECRET}"
    add_envelope(keystore, "vault", "vault", given)
    opens(keystore)
    assert server.requests[0] == ("/v1/auth/approle/login", None, None)
    tokens = {token for path, _, token in server.requests if "transit" in path}
    assert TOKEN not in tokens
    given["secret-id-command"] = "echo another"
    with pytest.raises(ProviderRefusedError, match="400: invalid role or secret ID"):
        add_envelope(keystore, "wrong", "vault", given)


def test_refused_or_away(
    keystore: Keystore, server: VaultServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_envelope(keystore, "vault", "vault", parameters(server, tmp_path))
    server.tokens.clear()
    with pytest.raises(ProviderRefusedError, match="answers 403: permission denied"):
        opens(keystore)
    server.tokens.add(TOKEN)
    key = server.keys.pop("tde")
    with pytest.raises(ProviderRefusedError, match="400: encryption key not found"):
        opens(keystore)
    server.keys["tde"] = server.keys["old"]
    with pytest.raises(ProviderRefusedError, match="message authentication failed"):
        opens(keystore)
    server.keys["tde"] = key
    server.sealed = True
    with pytest.raises(ProviderUnreachableError, match="503: Vault is sealed"):
        opens(keystore)
    server.sealed = False
    opens(keystore)
    monkeypatch.setattr(vault, "_SECONDS", 0.2)
    server.silent.set()
    with pytest.raises(ProviderUnreachableError, match="no answer from http://127"):
        opens(keystore)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{unused.getsockname()[1]}"
        given = parameters(server, tmp_path, address=address)
        with pytest.raises(ProviderUnreachableError, match="Connection refused"):
            add_envelope(keystore, "none", "vault", given)


def test_tls_is_checked(keystore: Keystore, tmp_path: Path) -> None:
    right, wrong = make_certificates(tmp_path / "a"), make_certificates(tmp_path / "b")
    other_name = make_certificates(tmp_path / "c", host="vault.example")
    with vault_server(right.certificate("server"), right.key("server")) as server:
        address = f"https://localhost:{server.port}"
        given = parameters(server, tmp_path, address=address, ca_file=str(right.ca))
        add_envelope(keystore, "vault", "vault", given)
        opens(keystore)
        given["ca-file"] = str(wrong.ca)
        with pytest.raises(ProviderUnreachableError, match="CERTIFICATE_VERIFY_FAILED") as refused:
            add_envelope(keystore, "wrong", "vault", given)
        assert "whether ca-file is that of its certificate" in refused.value.remedy
    with vault_server(other_name.certificate("server"), other_name.key("server")) as server:
        address = f"https://localhost:{server.port}"
        given = parameters(server, tmp_path, address=address, ca_file=str(other_name.ca))
        with pytest.raises(ProviderUnreachableError, match="Hostname mismatch"):
            add_envelope(keystore, "name", "vault", given)
        assert server.requests == []


def test_certificates_that_only_an_older_python_takes(
    keystore: Keystore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_context = ssl.create_default_context

    def strict(**arguments: Any) -> ssl.SSLContext:
        """As Python itself makes it from 3.13 on."""
        context = make_context(**arguments)
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        return context

    monkeypatch.setattr(ssl, "create_default_context", strict)
    for complete in (True, False):
        files = make_certificates(tmp_path / f"complete-{complete}", complete=complete)
        with vault_server(files.certificate("server"), files.key("server")) as server:
            address = f"https://localhost:{server.port}"
            given = parameters(server, tmp_path, address=address, ca_file=str(files.ca))
            if complete:
                add_envelope(keystore, "complete", "vault", given)
                opens(keystore, "complete")
            else:
                with pytest.raises(ProviderUnreachableError, match="Key Identifier") as refused:
                    add_envelope(keystore, "not", "vault", given)
                assert "From Python 3.13 on" in refused.value.remedy


def test_a_standby_that_names_the_active_server(
    keystore: Keystore, server: VaultServer, tmp_path: Path
) -> None:
    add_envelope(keystore, "vault", "vault", parameters(server, tmp_path))
    with vault_server() as standby:
        standby.redirect_to = f"http://127.0.0.1:{server.port}"
        add_envelope(keystore, "by-standby", "vault", parameters(standby, tmp_path))
        opens(keystore, "by-standby")
        # The token goes nowhere in the clear, and not round and round.
        standby.redirect_to = "http://vault.example:8200"
        with pytest.raises(ProviderError, match="without TLS"):
            opens(keystore, "by-standby")
        standby.redirect_to = f"http://127.0.0.1:{standby.port}"
        before = len(standby.requests)
        with pytest.raises(ProviderUnreachableError, match="answers 307"):
            opens(keystore, "by-standby")
        assert len(standby.requests) - before == 3


def test_a_redirection_leaves_no_tls(
    keystore: Keystore, server: VaultServer, tmp_path: Path
) -> None:
    files = make_certificates(tmp_path / "a")
    with vault_server(files.certificate("server"), files.key("server")) as standby:
        standby.redirect_to = f"http://127.0.0.1:{server.port}"
        address = f"https://localhost:{standby.port}"
        given = parameters(standby, tmp_path, address=address, ca_file=str(files.ca))
        with pytest.raises(ProviderError, match=r"sends on to http://127.*without TLS"):
            add_envelope(keystore, "vault", "vault", given)
    assert server.requests == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"address": "http://vault.example:8200"}, "without TLS"),
        ({"address": "vault:8200"}, "is no address"),
        ({"address": "https://user:word@vault"}, "is no address"),
        ({"address": "https://vault:x"}, "is no address"),
        ({"bind": "something"}, "cannot bind by something"),
        ({"token-file": "token"}, "is no absolute path"),
        ({"token-command": "echo x"}, "both token-file and token-command"),
        ({"token-file": "/nonexistent/token"}, "could not read the token file"),
        ({"token-file": ""}, "is no absolute path"),
    ],
)
def test_parameters(
    keystore: Keystore, server: VaultServer, tmp_path: Path, changes: dict[str, str], message: str
) -> None:
    with pytest.raises(ProviderError, match=message):
        add_envelope(keystore, "vault", "vault", {**parameters(server, tmp_path), **changes})
    assert server.requests == []


def test_a_token_that_others_can_read_or_that_is_none(
    keystore: Keystore, server: VaultServer, tmp_path: Path
) -> None:
    given = parameters(server, tmp_path)
    file = Path(given["token-file"])
    file.chmod(0o644)
    with pytest.raises(ProviderError, match="is open to other users"):
        add_envelope(keystore, "vault", "vault", given)
    file.chmod(0o600)
    for content in (b"", b"a\nX-Vault-Namespace: b", b"\xff"):
        file.write_bytes(content)
        with pytest.raises(ProviderError, match=r"is empty|is no plain text of one line"):
            add_envelope(keystore, "vault", "vault", given)
    assert server.requests == []
