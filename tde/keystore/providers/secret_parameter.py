"""Secrets that a provider itself needs: from a private file or a command that parameters name."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from pathlib import Path

from tde.errors import KeystoreError, ProviderError
from tde.keystore.crypto.secret import wipe
from tde.keystore.providers.passphrase_source import read_secret, read_secret_file
from tde.keystore.providers.wrapper import Parameter

_LONGEST = 16 * 1024


def secret_parameters(name: str, what: str) -> tuple[Parameter, Parameter]:
    """Return the two parameters by which a secret is given: ``<name>-file`` or ``<name>-command``.

    Args:
        what: how people call it.
    """
    return (
        Parameter(f"{name}-file", f"a file with {what}, which only the keystore's owner can read"),
        Parameter(f"{name}-command", f"or a shell command that prints {what}"),
    )


def read_secret_parameter(name: str, parameters: Mapping[str, str]) -> bytearray | None:
    """Return a secret without the newline at its end; None where no parameter names it.

    Raises:
        ProviderError: it cannot be read, is empty, or two parameters name it.
    """
    file, command = parameters.get(f"{name}-file"), parameters.get(f"{name}-command")
    if file is not None and command is not None:
        raise ProviderError(
            f"it has both {name}-file and {name}-command", remedy="Give one of the two."
        )
    if file is None and command is None:
        return None
    try:
        secret = _from_command(name, command) if file is None else _from_file(name, file)
    except KeystoreError as error:
        raise ProviderError(
            f"its {name}: {error}",
            remedy=error.remedy or "It is read as the owner of the keystore, who must be able to.",
        ) from error
    if not secret:
        raise ProviderError(f"its {name} is empty", remedy=f"See {file or command}.")
    return secret


def require_absolute(name: str, parameters: Mapping[str, str]) -> None:
    """Refuse the path of a file that depends on where a command is run.

    Raises:
        ProviderError: it does.
    """
    path = parameters.get(name)
    if path is not None and not Path(path).is_absolute():
        raise ProviderError(
            f"its parameter {name} is no absolute path: {path}",
            remedy="The keystore is opened from other directories as well; give the whole path.",
        )


def _from_file(name: str, file: str) -> bytearray:
    return read_secret_file(Path(file), name, _LONGEST)


def _from_command(name: str, command: str | None) -> bytearray:
    assert command is not None
    with subprocess.Popen(
        command,
        shell=True,
        cwd="/",
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        bufsize=0,
    ) as process:
        assert process.stdout is not None
        secret = read_secret(process.stdout.fileno(), f"what {name}-command prints", _LONGEST)
    if process.returncode != 0:
        wipe(secret)
        raise ProviderError(
            f"{name}-command ended with exit status {process.returncode}",
            remedy="Run it by hand, as the owner of the keystore.",
        )
    return secret
