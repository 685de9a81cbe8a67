"""Opening a keystore in the way that its operator chose, or in one that opens by itself."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from tde.errors import KeystoreError, PassphraseError
from tde.keystore.crypto.secret import wipe
from tde.keystore.providers.passphrase_source import (
    PROMPT,
    PassphraseSource,
    read_passphrase,
    read_secret_file,
)

if TYPE_CHECKING:
    from tde.keystore.keystore import Keystore

_warnings = logging.getLogger("tde.keystore")
_LONGEST_SHARE = 4096


def open_keystore(directory: Path, source: PassphraseSource = PROMPT) -> Keystore:
    """Open a keystore with what its source names.

    Without a named source, a keystore that opens by itself does so: by auto-open.key, or else by
    the providers that were added for unattended starts, in order of name.

    The result is a context manager; leaving it wipes the master key.

    Raises:
        KeystoreError: the passphrase cannot be read or the keystore cannot be opened.
    """
    (opened,) = open_keystores([directory], source)
    return opened


def open_keystores(
    directories: Sequence[Path], source: PassphraseSource = PROMPT
) -> list[Keystore]:
    """Open copies of a keystore, all with one passphrase, which is read once.

    Raises:
        KeystoreError: as :func:`open_keystore`; none is open then.
    """
    # Imported here because it loads the cryptography package, which `--help` must not wait for.
    from tde.keystore.status import keystore_uuid

    # A missing or damaged keystore is reported before the operator types a passphrase.
    for directory in directories:
        keystore_uuid(directory)
    with ExitStack() as stack:
        secrets = _Secrets(stack, source)
        opened = [
            stack.enter_context(_open(directory, source, secrets)) for directory in directories
        ]
        secrets.wipe()
        stack.pop_all()
    return opened


def read_shares(files: Sequence[Path]) -> list[bytearray]:
    """Return the shares of custodians from their files; the caller wipes them.

    Raises:
        KeystoreError: one cannot be read, or can be read by others.
    """
    shares: list[bytearray] = []
    try:
        for file in files:
            shares.append(read_secret_file(file, "share", _LONGEST_SHARE))
    except KeystoreError:
        for share in shares:
            wipe(share)
        raise
    return shares


def tell_of_opening(keystore: Keystore, means: str) -> None:
    """Tell in the key log what a keystore was opened with."""
    from tde.keystore.log.writing import write_entry_if_possible

    write_entry_if_possible(keystore.path, "open keystore", {"with": means}, keystore.log_author())


class _Secrets:
    """What is read once and wiped at the end: the passphrase, and the shares of custodians."""

    def __init__(self, stack: ExitStack, source: PassphraseSource) -> None:
        self._source = source
        self._read: list[bytearray] = []
        self._passphrase: bytearray | None = None
        self._shares: list[bytearray] | None = None
        stack.callback(self.wipe)

    def passphrase(self, directory: Path) -> bytearray:
        if self._passphrase is None:
            self._passphrase = read_passphrase(self._source, prompt=f"Passphrase of {directory}: ")
            self._read.append(self._passphrase)
        return self._passphrase

    def shares(self) -> list[bytearray]:
        if self._shares is None:
            self._shares = read_shares(self._source.share_files)
            self._read += self._shares
        return self._shares

    def wipe(self) -> None:
        for secret in self._read:
            wipe(secret)


def _open(directory: Path, source: PassphraseSource, secrets: _Secrets) -> Keystore:
    from tde.keystore.keystore import Keystore

    if source.provider is not None:
        return _open_by_provider(directory, source.provider, secrets.shares())
    failed: list[str] = []
    if source == PROMPT:
        keystore = _open_unattended(directory, failed)
        if keystore is not None:
            return keystore
    try:
        passphrase = secrets.passphrase(directory)
    except PassphraseError as error:
        raise _with_failures(error, failed) from error
    keystore = Keystore.open(directory, passphrase)
    # Files, descriptors and commands may be those of a unit that starts the server at boot.
    keystore.by_hand = source == PROMPT
    tell_of_opening(keystore, "the passphrase")
    return keystore


def _open_unattended(directory: Path, failed: list[str]) -> Keystore | None:
    """Open a keystore that opens by itself; add to ``failed`` what has kept it from that."""
    from tde.keystore.keystore import Keystore
    from tde.keystore.providers.auto_open import can_open_automatically

    if can_open_automatically(directory):
        keystore = Keystore.open_automatically(directory)
        tell_of_opening(keystore, "auto-open.key")
        return keystore
    for name in _unattended_names(directory, failed):
        try:
            return _open_by_provider(directory, name, [])
        except KeystoreError as error:
            _tell_of_failure(error, failed)
    return None


def _unattended_names(directory: Path, failed: list[str]) -> list[str]:
    from tde.keystore.store.layout import list_envelopes

    try:
        if not list_envelopes(directory):
            return []
        from tde.keystore.envelopes import unattended_providers

        return [info.name for info in unattended_providers(directory)]
    except KeystoreError as error:
        # What is wrong with envelopes must not keep the passphrase from opening.
        _tell_of_failure(error, failed)
        return []


def _tell_of_failure(error: KeystoreError, failed: list[str]) -> None:
    _warnings.warning("%s", error)
    failed.append(str(error))


def _open_by_provider(directory: Path, name: str, shares: Sequence[bytearray]) -> Keystore:
    from tde.keystore.keystore import Keystore
    from tde.keystore.providers.envelope_provider import EnvelopeProvider

    provider = EnvelopeProvider(name, shares)
    keystore = Keystore.open_with(directory, provider, {"provider": name})
    assert provider.header is not None
    keystore.level = provider.header.level
    means = f"provider {name} ({provider.header.type})"
    tell_of_opening(keystore, f"{means}, from the kernel's cache" if provider.by_cache else means)
    return keystore


def _with_failures(error: PassphraseError, failed: Sequence[str]) -> PassphraseError:
    if not failed:
        return error
    return PassphraseError(
        f"{error}, and the keystore does not open by itself: {'; '.join(failed)}",
        remedy=f"Repair one of them, or: {error.remedy}",
    )
