"""Opening a keystore in the way that its operator chose, or in one that opens by itself."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from tde.errors import KeystoreError, KeystoreMissingError, PassphraseError
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
WAL_LEVEL = "wal"


def open_keystore(
    directory: Path,
    source: PassphraseSource = PROMPT,
    *,
    for_server: bool = False,
    by_passphrase: bool = False,
) -> Keystore:
    """Open a keystore with what its source names.

    Without a named source, a keystore that opens by itself does so: by auto-open.key, or else by
    the providers that were added for unattended starts, in order of name. Of these, one that runs
    what its envelope names is passed over unless it was accepted on this machine.

    The result is a context manager; leaving it wipes the master key.

    Args:
        for_server: whether the keys are for a server or one of its programs alone, which gives
            sessions no encrypted tablespace where the keystore was opened at level ``wal``. Nothing
            else may be done at that level.
        by_passphrase: whether nothing but the passphrase will do; then it is asked for.

    Raises:
        KeystoreError: the passphrase cannot be read or the keystore cannot be opened.
    """
    (opened,) = open_keystores(
        [directory], source, for_server=for_server, by_passphrase=by_passphrase
    )
    return opened


def open_unattended(directory: Path) -> Keystore:
    """Open a keystore that opens by itself, for a server; nobody is asked for anything.

    Raises:
        KeystoreMissingError: it has no way to open by itself, or none works.
        KeystoreError: another of its subclasses.
    """
    failed: list[str] = []
    keystore = _open_unattended(directory, failed, for_server=True)
    if keystore is None:
        raise KeystoreMissingError(
            f"the keystore {directory} does not open by itself"
            + "".join(f"; {text}" for text in failed),
            remedy=(
                f"See: tde keystore auto-open status --keystore {directory}"
                if failed
                else f"Enable it: tde keystore auto-open enable --keystore {directory}"
            ),
        )
    return keystore


def open_keystores(
    directories: Sequence[Path],
    source: PassphraseSource = PROMPT,
    *,
    for_server: bool = False,
    by_passphrase: bool = False,
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
    if by_passphrase and source.provider is not None:
        raise KeystoreError(
            "this takes the passphrase, and no provider will do: whoever can write to the keystore "
            "could have put the envelope there, with a key of his own",
            remedy="Leave --provider out.",
        )
    with ExitStack() as stack:
        secrets = _Secrets(stack, source)
        opened = [
            stack.enter_context(_open(directory, source, secrets, for_server, by_passphrase))
            for directory in directories
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


def _open(
    directory: Path,
    source: PassphraseSource,
    secrets: _Secrets,
    for_server: bool,
    by_passphrase: bool,
) -> Keystore:
    from tde.keystore.keystore import Keystore

    if source.provider is not None:
        keystore = _open_by_provider(directory, source.provider, secrets.shares())
        _require_level(keystore, for_server)
        return keystore
    failed: list[str] = []
    if source == PROMPT and not by_passphrase:
        opened = _open_unattended(directory, failed, for_server=for_server)
        if opened is not None:
            return opened
    try:
        passphrase = secrets.passphrase(directory)
    except PassphraseError as error:
        raise _with_failures(error, failed) from error
    keystore = Keystore.open(directory, passphrase)
    # Files, descriptors and commands may be those of a unit that starts the server at boot.
    keystore.by_hand = source == PROMPT
    tell_of_opening(keystore, "the passphrase")
    _warn_of_foreign_ways(keystore)
    return keystore


def _warn_of_foreign_ways(keystore: Keystore) -> None:
    """Name what others have put into a keystore to open it; only now that can be told."""
    from tde.keystore.ways import foreign_ways

    for file in foreign_ways(keystore):
        _warnings.warning(
            "%s was NOT made by who had the master key of this keystore: somebody who can write to "
            "the keystore has put or altered it. Find out who, and remove it: rm %s",
            file,
            shlex.quote(str(file)),
        )


def _require_level(keystore: Keystore, for_server: bool) -> None:
    if keystore.level == WAL_LEVEL and not for_server:
        keystore.close()
        raise KeystoreError(
            "that provider opens the keystore at level wal, which starts servers and lets their "
            "sessions use no encrypted tablespace",
            remedy="Give the passphrase, or another provider.",
        )


def _open_unattended(directory: Path, failed: list[str], *, for_server: bool) -> Keystore | None:
    """Open a keystore that opens by itself; add to ``failed`` what has kept it from that."""
    from tde.keystore.keystore import Keystore
    from tde.keystore.providers.auto_open import can_open_automatically

    if can_open_automatically(directory):
        keystore = Keystore.open_automatically(directory)
        tell_of_opening(keystore, "auto-open.key")
        return keystore
    for name, level in _unattended_ways(directory, failed):
        if level == WAL_LEVEL and not for_server:
            failed.append(f"provider {name} opens it at level wal, which is for servers only")
            continue
        try:
            keystore = _open_by_provider(directory, name, [], unasked=True)
            # The file may be another one by now than when it was listed.
            _require_level(keystore, for_server)
            return keystore
        except KeystoreError as error:
            _tell_of_failure(error, failed)
    return None


def _unattended_ways(directory: Path, failed: list[str]) -> list[tuple[str, str]]:
    """Return name and level of the providers for unattended starts."""
    from tde.keystore.store.contents import list_envelopes

    try:
        if not list_envelopes(directory):
            return []
        from tde.keystore.envelopes import unattended_providers

        found = unattended_providers(directory)
        return [(info.name, info.header.level) for info in found if info.header is not None]
    except KeystoreError as error:
        # What is wrong with envelopes must not keep the passphrase from opening.
        _tell_of_failure(error, failed)
        return []


def _tell_of_failure(error: KeystoreError, failed: list[str]) -> None:
    _warnings.warning("%s", error)
    failed.append(str(error))


def _open_by_provider(
    directory: Path, name: str, shares: Sequence[bytearray], *, unasked: bool = False
) -> Keystore:
    from tde.keystore.keystore import Keystore
    from tde.keystore.providers.envelope_provider import EnvelopeProvider

    provider = EnvelopeProvider(name, shares, unasked=unasked)
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
