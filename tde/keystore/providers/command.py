"""A provider that two commands make: the way to the key services of clouds, by their own tools."""

from __future__ import annotations

import base64
import binascii
import os
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from typing import ClassVar

from tde.errors import ProviderError, ProviderRefusedError, ProviderUnreachableError
from tde.keystore.crypto.secret import SecretBuffer, wipe
from tde.keystore.providers.last_words import last_words
from tde.keystore.providers.wrapper import Parameter

UNREACHABLE_STATUS = 75
"""The exit status of a command that got no answer: EX_TEMPFAIL of sysexits.h."""
CONTEXT_VARIABLE = "TDE_CONTEXT"
_LONGEST_OUTPUT = 24 * 1024  # Bytes; base64 of the longest wrapped KEK has less.
# What the loader obeys: a command that the interposer of a server watches would be of no use.
_OF_THE_LOADER = ("LD_PRELOAD", "LD_AUDIT", "LD_LIBRARY_PATH")


class CommandProvider:
    """Has one shell command wrap the KEK and another one unwrap it; both speak base64."""

    summary: ClassVar[str] = "Shell commands wrap and unwrap the key: AWS KMS, Azure, Google"
    parameters: ClassVar[tuple[Parameter, ...]] = (
        Parameter(
            "wrap-command",
            "gets the key on its standard input, in base64, and prints it wrapped, in base64",
            required=True,
        ),
        Parameter(
            "unwrap-command",
            f"the way back; exit status {UNREACHABLE_STATUS} says that there was no answer",
            required=True,
        ),
    )
    timeout: ClassVar[float | None] = 20.0

    def __init__(self, parameters: Mapping[str, str]) -> None:
        """Take both commands."""
        self._wrap = parameters["wrap-command"]
        self._unwrap = parameters["unwrap-command"]

    def wrap(self, kek: SecretBuffer, context: bytes) -> bytes:
        """Return what the first command makes of the KEK."""
        with kek.view as view:
            encoded = bytearray(base64.b64encode(view))
        try:
            output = _run(self._wrap, "wrap-command", encoded, context)
        finally:
            wipe(encoded)
        return _decode(output, "wrap-command")

    def unwrap(self, wrapped: bytes, context: bytes) -> SecretBuffer:
        """Return what the second command makes of the wrapped KEK."""
        encoded = bytearray(base64.b64encode(wrapped))
        output = _run(self._unwrap, "unwrap-command", encoded, context)
        try:
            content = bytearray(_decode(output, "unwrap-command"))
        finally:
            wipe(output)
        kek = SecretBuffer(max(1, len(content)))
        with kek.view as view:
            view[: len(content)] = content
        wipe(content)
        return kek


def _run(command: str, what: str, content: bytearray, context: bytes) -> bytearray:
    environment = {name: os.environ[name] for name in os.environ if name not in _OF_THE_LOADER}
    environment[CONTEXT_VARIABLE] = context.decode()
    with last_words() as said:
        process = subprocess.Popen(
            command,
            shell=True,
            cwd="/",
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=said.fd,
            bufsize=0,
        )
        output, _ = process.communicate(bytes(content))
        message = said.text()
    result = bytearray(output)
    if process.returncode == 0 and len(result) <= _LONGEST_OUTPUT:
        return result
    wipe(result)
    if process.returncode == 0:
        raise ProviderError(f"its {what} prints more than {_LONGEST_OUTPUT} bytes")
    raise _failure(what, process.returncode, message)


def _failure(what: str, status: int, message: str) -> ProviderError:
    text = f"its {what} ended with exit status {status}" + (f": {message}" if message else "")
    remedy = "Run it by hand, as the owner of the keystore, with something in base64 as its input."
    if status == UNREACHABLE_STATUS:
        return ProviderUnreachableError(text, remedy=remedy)
    return ProviderRefusedError(text, remedy=remedy)


def _decode(output: bytearray, what: str) -> bytes:
    # Tools break lines; whatever else is no base64 is the message of a program that went wrong.
    with suppress(binascii.Error, ValueError):
        decoded = base64.b64decode(b"".join(output.split()), validate=True)
        if decoded:
            return decoded
    raise ProviderError(
        f"its {what} has not printed base64",
        remedy="It must print the key and nothing else; messages belong to standard error.",
    )
