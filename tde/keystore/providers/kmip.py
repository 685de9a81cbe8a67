"""A provider that is a key of a KMIP server, which encrypts and decrypts: the key never leaves it.

PyKMIP packs and unpacks the messages. Its connection is not used: it checks no server's name, knows
IPv4 only, and writes messages with the KEK to the log where that is set to debugging.
"""

from __future__ import annotations

import importlib.util
import os
import socket
import ssl
import struct
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

from tde.errors import ProviderError, ProviderRefusedError
from tde.keystore.crypto.secret import SecretBuffer, wipe
from tde.keystore.providers.secret_parameter import require_absolute
from tde.keystore.providers.tls import client_context, unreachable
from tde.keystore.providers.wrapper import Parameter, require_library
from tde.keystore.store.files import FILE_MODE, check_mode

_SECONDS = 5.0
_NONCE_BYTES, _TAG_BYTES = 12, 16
_PORT = "5696"
_VERSIONS = {"1.4": "KMIP_1_4", "2.0": "KMIP_2_0"}
_HEADER = struct.Struct(">3sBI")  # Of a message: tag, type, and the length of the rest.
_LONGEST_ANSWER = 64 * 1024
# What a server says for whatever it has no word for: neither a refusal nor silence.
_VAGUE_REASON = "GENERAL_FAILURE"


class KmipProvider:
    """Has a key of a KMIP server encrypt the KEK by AES-GCM, bound to the context.

    The nonce is random: 96 bits, for as many messages under that key as there are envelopes.
    """

    summary: ClassVar[str] = "A KMIP server (1.4 or later), which encrypts with an AES key"
    parameters: ClassVar[tuple[Parameter, ...]] = (
        Parameter("host", "the server's name, as in its certificate", required=True),
        Parameter("port", f"[{_PORT}]"),
        Parameter("key-id", "the unique identifier of the AES key", required=True),
        Parameter("cert-file", "the client's certificate", required=True),
        Parameter("key-file", "its key, which only the keystore's owner can read", required=True),
        Parameter("ca-file", "certificates that the server's is checked with", required=True),
        Parameter("version", f"of KMIP: {' or '.join(_VERSIONS)} [1.4]"),
    )
    timeout: ClassVar[float | None] = 3 * _SECONDS

    def __init__(self, parameters: Mapping[str, str]) -> None:
        """Take the parameters.

        Raises:
            ProviderError: one cannot be used.
        """
        for name in ("cert-file", "key-file", "ca-file"):
            require_absolute(name, parameters)
        port = parameters.get("port", _PORT)
        if not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
            raise ProviderError(f"{port} is no port", remedy="Give a number from 1 to 65535.")
        version = parameters.get("version", "1.4")
        if version not in _VERSIONS:
            raise ProviderError(
                f"it does not know KMIP {version}",
                remedy=f"version is one of: {', '.join(_VERSIONS)}",
            )
        self._parameters = parameters
        self._address = (parameters["host"], int(port))
        self._version = _VERSIONS[version]

    def wrap(self, kek: SecretBuffer, context: bytes) -> bytes:
        """Return nonce, ciphertext and tag, as the server encrypts the KEK."""
        _load_codec()
        nonce = os.urandom(_NONCE_BYTES)
        with kek.view as view:
            answer = self._ask("ENCRYPT", "EncryptRequestPayload", nonce, context, bytes(view))
        tag = answer.auth_tag
        if not answer.data or not tag or len(tag) != _TAG_BYTES:
            raise _strange("no ciphertext with a tag of 16 bytes")
        return nonce + bytes(answer.data) + bytes(tag)

    def unwrap(self, wrapped: bytes, context: bytes) -> SecretBuffer:
        """Return the KEK as the server decrypts it."""
        _load_codec()
        nonce, tag = wrapped[:_NONCE_BYTES], wrapped[-_TAG_BYTES:]
        data = wrapped[_NONCE_BYTES:-_TAG_BYTES]
        answer = self._ask("DECRYPT", "DecryptRequestPayload", nonce, context, data, tag)
        content = bytearray(answer.data or b"")
        kek = SecretBuffer(max(1, len(content)))
        with kek.view as view:
            view[: len(content)] = content
        wipe(content)
        return kek

    def _ask(
        self,
        operation: str,
        payload: str,
        nonce: bytes,
        context: bytes,
        data: bytes,
        tag: bytes | None = None,
    ) -> Any:
        """Return the payload of the server's answer to one request."""
        enums = sys.modules["kmip.core.enums"]
        payloads = sys.modules["kmip.core.messages.payloads"]
        attributes = sys.modules["kmip.core.attributes"]
        fields: dict[str, Any] = {
            "unique_identifier": self._parameters["key-id"],
            "cryptographic_parameters": attributes.CryptographicParameters(
                block_cipher_mode=enums.BlockCipherMode.GCM,
                cryptographic_algorithm=enums.CryptographicAlgorithm.AES,
                tag_length=_TAG_BYTES,
            ),
            "data": data,
            "iv_counter_nonce": nonce,
            "auth_additional_data": context,
        }
        if tag is not None:
            fields["auth_tag"] = tag
        request = getattr(payloads, payload)(**fields)
        item = self._exchange(getattr(enums.Operation, operation), request)
        if item.result_status.value != enums.ResultStatus.SUCCESS:
            raise self._failure(item)
        return item.response_payload

    def _exchange(self, operation: Any, payload: Any) -> Any:
        """Send one request and return the only item of the answer."""
        enums = sys.modules["kmip.core.enums"]
        messages = sys.modules["kmip.core.messages.messages"]
        contents = sys.modules["kmip.core.messages.contents"]
        streams = sys.modules["kmip.core.utils"]
        version = getattr(enums.KMIPVersion, self._version)
        major, minor = (int(part) for part in self._version[len("KMIP_") :].split("_"))
        request = messages.RequestMessage(
            request_header=messages.RequestHeader(
                protocol_version=contents.ProtocolVersion(major, minor),
                batch_count=contents.BatchCount(1),
            ),
            batch_items=[
                messages.RequestBatchItem(
                    operation=contents.Operation(operation), request_payload=payload
                )
            ],
        )
        stream = streams.BytearrayStream()
        request.write(stream, version)
        content = self._transmit(bytes(stream.buffer))
        answer = messages.ResponseMessage()
        try:
            answer.read(streams.BytearrayStream(content), version)
            (item,) = answer.batch_items
        except Exception as error:
            # A codec of this size raises whatever a hostile message makes it stumble over.
            raise _strange(f"a form that is not KMIP ({type(error).__name__})") from error
        return item

    def _transmit(self, request: bytes) -> bytes:
        host, port = self._address
        context = client_context(
            self._parameters["ca-file"],
            self._parameters["cert-file"],
            _private(self._parameters["key-file"]),
        )
        try:
            with (
                socket.create_connection((host, port), timeout=_SECONDS) as plain,
                context.wrap_socket(plain, server_hostname=host) as connection,
            ):
                connection.sendall(request)
                header = _receive(connection, _HEADER.size)
                _, _, length = _HEADER.unpack(header)
                if length > _LONGEST_ANSWER:
                    raise _strange(f"{length} bytes")
                return header + _receive(connection, length)
        except (OSError, ssl.SSLError) as error:
            raise unreachable(
                f"{host}:{port}",
                error,
                "See whether the server runs and can be reached from here, whether ca-file is that "
                "of its certificate, and whether it knows the client's.",
            ) from error

    def _failure(self, item: Any) -> ProviderError:
        reason = item.result_reason.value.name if item.result_reason else "no reason"
        message = item.result_message.value if item.result_message else ""
        host, _ = self._address
        text = f"{host} answers {reason}: {' '.join(str(message).split())[:300]}"
        kind = ProviderError if reason == _VAGUE_REASON else ProviderRefusedError
        return kind(
            text,
            remedy="See whether the key is active, may encrypt and decrypt, and is this client's, "
            "and what the server's log says.",
        )


def _receive(connection: ssl.SSLSocket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = connection.recv(size - len(data))
        if not part:
            raise OSError("the server has closed the connection")
        data += part
    return data


def _private(key_file: str) -> str:
    """Return the path of the client's key when others cannot read it.

    Raises:
        ProviderError: it is not there.
        KeystorePermissionError: others can.
    """
    try:
        check_mode(key_file, Path(key_file).stat(), FILE_MODE)
    except OSError as error:
        raise ProviderError(
            f"its key-file {key_file} cannot be read: {error.strerror}",
            remedy="It is read as the owner of the keystore, who must be able to.",
        ) from error
    return key_file


def _load_codec() -> None:
    """Import the messages of PyKMIP, and not the database that its front door loads.

    With that it takes 0.8 seconds of CPU, ten times as long as all else that opens a keystore. So
    the package itself is made here as an empty one, in this process, which ends with the call.
    """
    if "kmip" not in sys.modules:
        found = importlib.util.find_spec("kmip")
        if found is None or found.submodule_search_locations is None:
            require_library("kmip", "kmip")
            raise ProviderError("the Python module kmip is no package")
        package = ModuleType("kmip")
        package.__path__ = list(found.submodule_search_locations)
        sys.modules["kmip"] = package
        package.enums = require_library("kmip.core.enums", "kmip")  # type: ignore[attr-defined]
    for module in ("kmip.core.attributes", "kmip.core.utils", "kmip.core.messages.messages"):
        require_library(module, "kmip")


def _strange(what: str) -> ProviderError:
    return ProviderError(
        f"the server's answer has {what}",
        remedy="See whether host and port are those of a KMIP server of this version.",
    )
