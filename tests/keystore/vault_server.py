"""A small server with what HashiCorp Vault and OpenBao document of Transit and AppRole.

No package brings a real one. `test_provider_vault` holds it against hvac, the usual client: what
that does with it is what it does with a real server.
"""

from __future__ import annotations

import base64
import json
import os
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

TOKEN, ROLE, SECRET = "hvs.root-of-tests", "role-of-tests", "secret-of-tests"
PREFIX = "vault:v1:"


class VaultServer(ThreadingHTTPServer):
    """One server; attributes say how it behaves.

    Attributes:
        sealed: it answers nothing else.
        silent: it takes connections and says nothing.
        redirect_to: the address that every request is sent to.
        requests: path, namespace and token of each, in order.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.keys = {"tde": os.urandom(32), "derived": os.urandom(32), "old": os.urandom(32)}
        self.tokens = {TOKEN}
        self.sealed = False
        self.silent = threading.Event()
        self.redirect_to: str | None = None
        self.requests: list[tuple[str, str | None, str | None]] = []

    @property
    def port(self) -> int:
        return int(self.server_address[1])


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: VaultServer

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""

    def do_POST(self) -> None:
        server = self.server
        if server.silent.is_set():
            # Until the client gives up: the end of its connection is read.
            self.rfile.read()
            return
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        token, namespace = self.headers["X-Vault-Token"], self.headers["X-Vault-Namespace"]
        server.requests.append((self.path, namespace, token))
        if server.redirect_to is not None:
            self._answer(307, {}, {"Location": server.redirect_to + self.path})
        elif server.sealed:
            self._answer(503, {"errors": ["Vault is sealed"]})
        elif self.path == "/v1/auth/approle/login":
            self._log_in(body)
        elif token not in server.tokens:
            self._answer(403, {"errors": ["permission denied"]})
        else:
            self._transit(body)

    do_PUT = do_POST

    def _log_in(self, body: dict[str, Any]) -> None:
        if (body.get("role_id"), body.get("secret_id")) != (ROLE, SECRET):
            self._answer(400, {"errors": ["invalid role or secret ID"]})
            return
        token = "hvs." + os.urandom(8).hex()
        self.server.tokens.add(token)
        self._answer(200, {"auth": {"client_token": token, "policies": ["tde"]}})

    def _transit(self, body: dict[str, Any]) -> None:
        parts = self.path.split("/")
        if parts[:3] != ["", "v1", "transit"] or len(parts) != 5:
            self._answer(404, {"errors": ["no handler for route"]})
            return
        verb, name = parts[3:]
        key = self.server.keys.get(name)
        try:
            if key is None:
                raise ValueError("encryption key not found")
            data = (
                self._encrypt(key, name, body)
                if verb == "encrypt"
                else self._decrypt(key, name, body)
            )
        except (ValueError, KeyError) as error:
            self._answer(400, {"errors": [str(error)]})
        else:
            self._answer(200, {"request_id": "1", "data": data})

    def _encrypt(self, key: bytes, name: str, body: dict[str, Any]) -> dict[str, Any]:
        plaintext = base64.b64decode(body["plaintext"], validate=True)
        nonce = os.urandom(12)
        sealed = nonce + _cipher(key, name, body).encrypt(nonce, plaintext, _associated(body))
        return {"ciphertext": PREFIX + base64.b64encode(sealed).decode(), "key_version": 1}

    def _decrypt(self, key: bytes, name: str, body: dict[str, Any]) -> dict[str, Any]:
        ciphertext = body["ciphertext"]
        if not ciphertext.startswith(PREFIX):
            raise ValueError("invalid ciphertext: no prefix")
        sealed = base64.b64decode(ciphertext[len(PREFIX) :], validate=True)
        try:
            cipher = _cipher(key, name, body)
            plaintext = cipher.decrypt(sealed[:12], sealed[12:], _associated(body))
        except InvalidTag:
            raise ValueError("cipher: message authentication failed") from None
        return {"plaintext": base64.b64encode(plaintext).decode()}

    def _answer(
        self, status: int, content: dict[str, Any], headers: dict[str, str] | None = None
    ) -> None:
        data = json.dumps(content).encode()
        self.send_response(status)
        for header, value in (headers or {}).items():
            self.send_header(header, value)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def _associated(body: dict[str, Any]) -> bytes | None:
    if "associated_data" not in body:
        return None
    return base64.b64decode(body["associated_data"], validate=True)


def _cipher(key: bytes, name: str, body: dict[str, Any]) -> AESGCM:
    """Return the key; that called ``derived`` needs a context, and the others take none."""
    if name != "derived":
        return AESGCM(key)
    if "context" not in body:
        raise ValueError("missing 'context' for key derivation")
    context = base64.b64decode(body["context"], validate=True)
    return AESGCM(HKDF(SHA256(), 32, salt=None, info=context).derive(key))


@contextmanager
def vault_server(certificate: Path | None = None, key: Path | None = None) -> Iterator[VaultServer]:
    """Run a server, with TLS where it has a certificate."""
    server = VaultServer()
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
