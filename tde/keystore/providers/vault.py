"""A provider that is a key of the Transit engine of HashiCorp Vault or OpenBao.

Two requests of its HTTP interface are all that is needed. The library for it, hvac, takes longer to
load than a keystore may take to open; the tests hold both against the same server.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import Any, ClassVar
from urllib.parse import quote, urlsplit

from tde.errors import ProviderError, ProviderRefusedError, ProviderUnreachableError
from tde.keystore.crypto.secret import SecretBuffer, wipe
from tde.keystore.providers.secret_parameter import (
    read_secret_parameter,
    require_absolute,
    secret_parameters,
)
from tde.keystore.providers.tls import client_context, unreachable
from tde.keystore.providers.wrapper import Parameter

_SECONDS = 5.0  # For each answer; a server that needs longer is as good as away.
_LONGEST_ANSWER = 64 * 1024
_LOOPBACK = ("127.0.0.1", "::1", "localhost")
_BINDINGS = ("associated-data", "context", "no")
_DEFAULT_PORTS = {"https": 443, "http": 80}
_MOST_REDIRECTIONS = 2
_OK = range(200, 300)
_MOVED = (307, 308)
_REFUSED = (400, 401, 403, 404, 405)


class VaultProvider:
    """Has a key of a Transit engine encrypt the KEK."""

    summary: ClassVar[str] = "The Transit engine of HashiCorp Vault or OpenBao"
    parameters: ClassVar[tuple[Parameter, ...]] = (
        Parameter("address", "https://HOST[:PORT] of the server", required=True),
        Parameter("key", "the name of the Transit key", required=True),
        Parameter("mount", "where the engine is mounted [transit]"),
        *secret_parameters("token", "the token"),
        *secret_parameters("role-id", "the role id of AppRole, in place of a token"),
        *secret_parameters("secret-id", "the secret id of AppRole"),
        Parameter("approle-mount", "where AppRole is mounted [approle]"),
        Parameter("ca-file", "certificates that the server's is checked with [the system's]"),
        Parameter("namespace", "the namespace of the key"),
        Parameter(
            "bind",
            "bind the key to this keystore by associated-data, context (derived keys), or no "
            "[associated-data]",
        ),
    )
    timeout: ClassVar[float | None] = 3 * _SECONDS

    def __init__(self, parameters: Mapping[str, str]) -> None:
        """Take the parameters.

        Raises:
            ProviderError: one cannot be used.
        """
        for name in ("token-file", "role-id-file", "secret-id-file", "ca-file"):
            require_absolute(name, parameters)
        self._parameters = parameters
        self._address = _checked_address(parameters["address"])
        if parameters.get("bind", _BINDINGS[0]) not in _BINDINGS:
            raise ProviderError(
                f"it cannot bind by {parameters['bind']}",
                remedy=f"bind is one of: {', '.join(_BINDINGS)}",
            )

    def wrap(self, kek: SecretBuffer, context: bytes) -> bytes:
        """Return the ciphertext as the server writes it: vault:v1:…"""
        with kek.view as view:
            plaintext = base64.b64encode(view).decode()
        answer = self._transit("encrypt", {"plaintext": plaintext}, context)
        ciphertext = answer.get("ciphertext")
        if not isinstance(ciphertext, str) or not ciphertext.isascii():
            raise _strange("no ciphertext")
        return ciphertext.encode()

    def unwrap(self, wrapped: bytes, context: bytes) -> SecretBuffer:
        """Return the KEK as the server decrypts it."""
        answer = self._transit("decrypt", {"ciphertext": wrapped.decode("ascii")}, context)
        try:
            content = bytearray(base64.b64decode(answer["plaintext"], validate=True))
        except (KeyError, TypeError, ValueError, binascii.Error):
            raise _strange("no plaintext in base64") from None
        kek = SecretBuffer(max(1, len(content)))
        with kek.view as view:
            view[: len(content)] = content
        wipe(content)
        return kek

    def _transit(self, verb: str, body: dict[str, str], context: bytes) -> dict[str, Any]:
        binding = self._parameters.get("bind", _BINDINGS[0])
        if binding != "no":
            body[binding.replace("-", "_")] = base64.b64encode(context).decode()
        mount = quote(self._parameters.get("mount", "transit").strip("/"))
        key = quote(self._parameters["key"], safe="")
        return self._post(f"/v1/{mount}/{verb}/{key}", body, self._token()).get("data") or {}

    def _token(self) -> str:
        token = read_secret_parameter("token", self._parameters)
        if token is not None:
            return _header_text(token)
        role = read_secret_parameter("role-id", self._parameters)
        if role is None:
            raise ProviderError(
                "it has no way to log in",
                remedy="Give token-file or token-command; or for AppRole role-id-file and "
                "secret-id-file.",
            )
        body = {"role_id": _header_text(role)}
        secret = read_secret_parameter("secret-id", self._parameters)
        if secret is not None:
            body["secret_id"] = _header_text(secret)
        mount = quote(self._parameters.get("approle-mount", "approle").strip("/"))
        auth = self._post(f"/v1/auth/{mount}/login", body, None).get("auth")
        token_text = auth.get("client_token") if isinstance(auth, dict) else None
        if not isinstance(token_text, str):
            raise _strange("no token for this AppRole")
        return token_text

    def _post(self, path: str, body: dict[str, str], token: str | None) -> dict[str, Any]:
        headers = {"Content-Type": "application/json", "X-Vault-Request": "true"}
        if token is not None:
            headers["X-Vault-Token"] = token
        if "namespace" in self._parameters:
            headers["X-Vault-Namespace"] = self._parameters["namespace"]
        url = self._address + path
        for _ in range(_MOST_REDIRECTIONS + 1):
            status, location, content = self._request(url, json.dumps(body), headers)
            if status not in _MOVED or location is None:
                break
            # A standby names the active server; it gets the token only by the same kind of line.
            url = _checked_redirection(url, location)
        if status in _OK:
            return _object(content)
        raise _failure(status, content, url)

    def _request(
        self, url: str, body: str, headers: Mapping[str, str]
    ) -> tuple[int, str | None, bytes]:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port or _DEFAULT_PORTS[parts.scheme]
        if parts.scheme == "https":
            context = client_context(self._parameters.get("ca-file"))
            connection: HTTPConnection = HTTPSConnection(
                host, port, timeout=_SECONDS, context=context
            )
        else:
            connection = HTTPConnection(host, port, timeout=_SECONDS)
        try:
            connection.request("POST", parts.path, body, dict(headers))
            answer = connection.getresponse()
            return answer.status, answer.getheader("Location"), answer.read(_LONGEST_ANSWER)
        except (OSError, HTTPException) as error:
            raise unreachable(
                f"{parts.scheme}://{host}:{port}",
                error,
                "See whether the server runs and can be reached from here, and whether ca-file is "
                "that of its certificate.",
            ) from error
        finally:
            connection.close()


def _checked_address(address: str) -> str:
    """Return the address of a server, which the token must not go to in the clear.

    Raises:
        ProviderError: it is none, or of another machine without TLS.
    """
    try:
        parts = urlsplit(address)
        usable = parts.scheme in _DEFAULT_PORTS and parts.hostname and parts.port != 0
    except ValueError:
        usable = False
    if not usable or parts.username is not None or parts.query or parts.fragment:
        raise ProviderError(
            f"{address} is no address of a server", remedy="Give https://HOST or https://HOST:PORT."
        )
    if parts.scheme == "http" and parts.hostname not in _LOOPBACK:
        raise ProviderError(
            f"{address} is without TLS, and would carry the key and the token in the clear",
            remedy="Give https://; http:// is for an agent on this machine: http://127.0.0.1:PORT",
        )
    return address.rstrip("/")


def _checked_redirection(url: str, location: str) -> str:
    """Return the address that a server names in place of its own.

    Raises:
        ProviderError: it cannot be used, or leads from TLS to a connection in the clear, where
            whoever has taken a port of this machine would get the token.
    """
    found = _checked_address(location)
    if urlsplit(url).scheme == "https" and urlsplit(found).scheme != "https":
        raise ProviderError(
            f"{url} sends on to {found}, which is without TLS",
            remedy="Nothing was sent there. Look at api_addr in the configuration of the server.",
        )
    return found


def _header_text(secret: bytearray) -> str:
    """Return a secret that becomes a header or a field; a line end in it would start another."""
    try:
        text = secret.decode("ascii").strip()
    except UnicodeDecodeError:
        text = ""
    finally:
        wipe(secret)
    if not text.isprintable() or not text:
        raise ProviderError("its token, role id or secret id is no plain text of one line")
    return text


def _object(content: bytes) -> dict[str, Any]:
    try:
        found = json.loads(content)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise _strange("no JSON")
    return found


def _failure(status: int, content: bytes, url: str) -> ProviderError:
    text = f"{url} answers {status}{_reasons(content)}"
    if status in _REFUSED:
        return ProviderRefusedError(
            text,
            remedy="403: the token has no right, or has expired; 404: no such mount or key; 400: "
            "another key, keystore or bind than at wrapping.",
        )
    return ProviderUnreachableError(
        text, remedy="503: it is sealed, and must be unsealed; 429: too many requests."
    )


def _reasons(content: bytes) -> str:
    """Return the errors that the server names; they hold nothing of the request."""
    try:
        errors = json.loads(content)["errors"]
        return ": " + "; ".join(" ".join(str(error).split()) for error in errors)[:300]
    except (KeyError, TypeError, ValueError, RecursionError):
        return ""


def _strange(what: str) -> ProviderError:
    return ProviderError(
        f"the server's answer has {what}",
        remedy="See whether the address is that of Vault or OpenBao, and the engine is Transit.",
    )
