"""Providers that are bound to a secret of this machine: in a file, of systemd, or of a command.

The secret is random bytes and no passphrase, so HKDF (RFC 5869) makes the wrapping key of it, and
no costly derivation: there is nothing to guess. Each wrapping has a random salt of 32 bytes and so
a key of its own, which wraps one message; its nonce cannot repeat.
"""

from __future__ import annotations

import os
import stat
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from tde.errors import (
    KeystorePermissionError,
    ProviderError,
    ProviderRefusedError,
    ProviderUnreachableError,
)
from tde.keystore.crypto.secret import SecretBuffer, wipe
from tde.keystore.crypto.wrapping import (
    NONCE_BYTES,
    TAG_BYTES,
    UnwrapError,
    Wrapped,
    new_nonce,
    unwrap as unwrap_secret,
    wrap as wrap_secret,
)
from tde.keystore.providers.command import UNREACHABLE_STATUS
from tde.keystore.providers.last_words import last_words
from tde.keystore.providers.wrapper import Parameter
from tde.keystore.store.files import FILE_MODE, check_mode

CREDENTIALS_VARIABLE = "CREDENTIALS_DIRECTORY"
SECRET_BYTES = range(32, 4097)
_SALT_BYTES = 32
_LABEL = b"tde bound secret\x00"
_FROM_OTHERS = ("LD_PRELOAD", "LD_AUDIT", "LD_LIBRARY_PATH")


class BoundSecret:
    """Wraps the KEK under a secret that a subclass reads."""

    parameters: ClassVar[Sequence[Parameter]]
    timeout: ClassVar[float | None] = 20.0

    def __init__(self, parameters: Mapping[str, str]) -> None:
        """Take what names the secret."""
        self._parameters = parameters

    def wrap(self, kek: SecretBuffer, context: bytes) -> bytes:
        """Return salt (32 bytes), nonce (12), wrapped KEK (32) and tag (16)."""
        salt = os.urandom(_SALT_BYTES)
        with self._wrapping_key(salt) as key:
            wrapped = wrap_secret(key, kek, new_nonce(), context)
        return salt + wrapped.nonce + wrapped.ciphertext + wrapped.tag

    def unwrap(self, wrapped: bytes, context: bytes) -> SecretBuffer:
        """Return the KEK that was wrapped under the same secret."""
        salt, rest = wrapped[:_SALT_BYTES], wrapped[_SALT_BYTES:]
        parts = Wrapped(rest[:NONCE_BYTES], rest[NONCE_BYTES:-TAG_BYTES], rest[-TAG_BYTES:])
        if len(rest) <= NONCE_BYTES + TAG_BYTES:
            raise ProviderError("what it is to unwrap is too short")
        try:
            with self._wrapping_key(salt) as key:
                return unwrap_secret(key, parts, context)
        except UnwrapError:
            raise ProviderRefusedError(
                f"{self._name()} has another secret than the one that the keystore is bound to",
                remedy="Bring the old one back; or open the keystore with its passphrase, and bind "
                "it anew: tde keystore auto-open disable, then enable --bind.",
            ) from None

    def _name(self) -> str:
        raise NotImplementedError

    def _read(self) -> bytearray:
        raise NotImplementedError

    def _wrapping_key(self, salt: bytes) -> SecretBuffer:
        secret = self._read()
        try:
            if len(secret) not in SECRET_BYTES:
                raise ProviderError(
                    f"{self._name()} gives {len(secret)} bytes, and a secret has "
                    f"{SECRET_BYTES.start} to {SECRET_BYTES.stop - 1}",
                    remedy="It must be random, and no passphrase: head -c 32 /dev/urandom",
                )
            derived = bytearray(HKDF(SHA256(), 32, salt, _LABEL).derive(bytes(secret)))
        finally:
            wipe(secret)
        key = SecretBuffer(len(derived))
        with key.view as view:
            view[:] = derived
        wipe(derived)
        return key


class HostSecretProvider(BoundSecret):
    """Reads the secret from a file outside of the keystore."""

    summary: ClassVar[str] = "A file of random bytes on this machine, apart from the keystore"
    parameters: ClassVar[Sequence[Parameter]] = (
        Parameter("file", "its absolute path; only the keystore's owner may read it", True),
    )

    def __init__(self, parameters: Mapping[str, str]) -> None:
        """Take the path.

        Raises:
            ProviderError: it is not absolute, or is inside of a keystore or a data directory.
        """
        super().__init__(parameters)
        self._file = Path(parameters["file"])
        require_apart(self._file)

    @staticmethod
    def is_safe_unasked(parameters: Mapping[str, str]) -> bool:
        """Tell that it only reads a file: see acceptance.py."""
        del parameters
        return True

    def _name(self) -> str:
        return f"the host secret {self._file}"

    def _read(self) -> bytearray:
        return _read_file(self._file, self._name(), is_checked=True)


class CredentialProvider(BoundSecret):
    """Reads the secret from a credential that systemd has given to the service."""

    summary: ClassVar[str] = "A credential of systemd: LoadCredential= or LoadCredentialEncrypted="
    parameters: ClassVar[Sequence[Parameter]] = (
        Parameter("name", "of the credential, as in the unit", True),
    )

    def __init__(self, parameters: Mapping[str, str]) -> None:
        """Take the name.

        Raises:
            ProviderError: it is not the name of a file.
        """
        super().__init__(parameters)
        self._credential = parameters["name"]
        if "/" in self._credential or self._credential in ("", ".", ".."):
            raise ProviderError(f"{self._credential!r} is no name of a credential")

    @staticmethod
    def is_safe_unasked(parameters: Mapping[str, str]) -> bool:
        """Tell that it only reads a file: see acceptance.py."""
        del parameters
        return True

    def _name(self) -> str:
        return f"the credential {self._credential}"

    def _read(self) -> bytearray:
        directory = os.environ.get(CREDENTIALS_VARIABLE)
        if not directory:
            raise ProviderUnreachableError(
                f"there is no credential {self._credential}: no unit of systemd with credentials "
                f"has started this ({CREDENTIALS_VARIABLE} is not set)",
                remedy="Start the unit with systemctl. By hand: systemd-run --pipe "
                f"-p LoadCredential={self._credential}:FILE tde ...",
            )
        # systemd lets the user of the service read it by an access control list, which looks like
        # access of root's group; the directory is closed to all others.
        return _read_file(Path(directory, self._credential), self._name(), is_checked=False)


class SecretCommandProvider(BoundSecret):
    """Takes the secret from a command, which may ask another machine for it."""

    summary: ClassVar[str] = "A shell command prints random bytes: clevis, ssh, curl"
    parameters: ClassVar[Sequence[Parameter]] = (
        Parameter(
            "command",
            f"prints the secret; exit status {UNREACHABLE_STATUS} says that there was no answer",
            True,
        ),
    )

    def _name(self) -> str:
        return "its command"

    def _read(self) -> bytearray:
        environment = {name: os.environ[name] for name in os.environ if name not in _FROM_OTHERS}
        with last_words() as said:
            ran = subprocess.run(
                self._parameters["command"],
                shell=True,
                cwd="/",
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=said.fd,
            )
            last = said.text()
        if ran.returncode == 0:
            return bytearray(ran.stdout)
        text = f"its command ended with exit status {ran.returncode}: {last or 'it said nothing'}"
        remedy = "Run it by hand, as the owner of the keystore."
        if ran.returncode == UNREACHABLE_STATUS:
            raise ProviderUnreachableError(text, remedy=remedy)
        raise ProviderRefusedError(text, remedy=remedy)


def require_apart(file: Path) -> None:
    """Refuse a secret that travels with the keystore, or with the data.

    Raises:
        ProviderError: its path is relative, or leads into a keystore or a data directory.
    """
    if not file.is_absolute():
        raise ProviderError(
            f"{file} is not an absolute path", remedy="A service starts in another directory."
        )
    for parent in Path(os.path.realpath(file)).parents:
        for name, what in (("keystore.json", "keystore"), ("PG_VERSION", "data directory")):
            if os.path.lexists(parent / name):
                raise ProviderError(
                    f"the host secret {file} would be in the {what} {parent}, and travel with it",
                    remedy="Choose another place, best on another file system that no backup of "
                    "the keystore or the data includes.",
                )


def _read_file(path: Path, name: str, *, is_checked: bool) -> bytearray:
    try:
        # A secret of Kubernetes is a link. O_NONBLOCK: a FIFO would be waited for.
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise ProviderUnreachableError(
            f"{name} cannot be read: {error.strerror}",
            remedy=f"{path} must be there, and the owner of the keystore must be able to read it.",
        ) from error
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise ProviderError(f"{path} is not a regular file")
        if status.st_uid not in (0, os.geteuid()):
            raise ProviderError(
                f"{path} belongs to user {status.st_uid}, who could replace it",
                remedy="Give it to the owner of the keystore, or to root.",
            )
        if is_checked:
            check_mode(path, status, FILE_MODE)
        elif status.st_mode & stat.S_IRWXO:
            raise ProviderError(f"{path} is open to all users")
        return bytearray(os.read(fd, SECRET_BYTES.stop))
    except KeystorePermissionError as error:
        raise ProviderError(str(error), remedy=error.remedy) from error
    except OSError as error:
        raise ProviderUnreachableError(f"{name} cannot be read: {error.strerror}") from error
    finally:
        os.close(fd)
