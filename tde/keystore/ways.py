"""In words: what opens a keystore, or a copy of it, besides its passphrase."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tde.errors import KeystoreError, ProviderError
from tde.keystore.envelopes import EnvelopeInfo, list_providers
from tde.keystore.keystore import Keystore
from tde.keystore.providers.acceptance import may_be_used_unasked
from tde.keystore.providers.auto_open import (
    auto_open_path,
    can_open_automatically,
    read_auto_open,
)
from tde.keystore.store.envelope import EnvelopeHeader
from tde.keystore.store.layout import AUTO_OPEN_NAME, new_auto_open_path
from tde.printable import printable


@dataclass(frozen=True)
class OtherWay:
    """A way to the master key that is not the passphrase.

    Attributes:
        in_words: the file, or the provider with its type and what it may do.
        uses: the parameters of the provider, its commands among them: a line for a terminal each,
            because a command may hold what looks like another parameter.
        provider: its name; empty for the file.
        may_be_used: whether it may be used unasked, because it was accepted on this machine or
            runs nothing that its envelope names.
    """

    in_words: str
    uses: tuple[str, ...] = ()
    provider: str = ""
    may_be_used: bool = True


def foreign_ways(keystore: Keystore) -> list[Path]:
    """Return the files that are to open a keystore and were not made with its master key.

    Those that cannot be read open nothing, and are told of by others.
    """
    found = []
    # The second one is used in the place of the first where a rotation was interrupted.
    for file in (auto_open_path(keystore.path), new_auto_open_path(keystore.path)):
        with (
            suppress(KeystoreError, OSError),
            read_auto_open(file, keystore.uuid, keystore.master_key_id) as master_key,
        ):
            if not keystore.has_master_key(master_key):
                found.append(file)
    with suppress(KeystoreError):
        for info in list_providers(keystore.path):
            if info.is_current and info.envelope and not keystore.is_own_envelope(info.envelope):
                found.append(info.file)
    return found


def other_ways(directory: Path) -> list[OtherWay]:
    """Return what opens a keystore besides its passphrase; needs no passphrase.

    Raises:
        KeystoreError: the keystore, or the directory of the envelopes, cannot be used.
    """
    directory = directory.resolve()
    file = [OtherWay(AUTO_OPEN_NAME)] if can_open_automatically(directory) else []
    infos = list_providers(directory)
    return file + [_way(directory, info) for info in infos if info.is_current]


def names_of_no_use(directory: Path) -> set[str]:
    """Return the names of providers whose only envelopes are for another master key.

    Raises:
        KeystoreError: as :func:`other_ways`.
    """
    infos = list_providers(directory.resolve())
    return {info.name for info in infos} - {info.name for info in infos if info.is_current}


def told_of_rotation(directory: Path, of_no_use: set[str]) -> list[str]:
    """Return what a rotation says of the ways that it has kept, and of those that it has dropped.

    Args:
        directory: the keystore's, with the new master key.
        of_no_use: what :func:`names_of_no_use` has returned before the rotation.

    Raises:
        KeystoreError: as :func:`other_ways`.
    """
    kept = other_ways(directory)
    dropped = sorted(of_no_use - {way.provider for way in kept})
    lines = [f"The new master key opens by {way.in_words} as well." for way in kept]
    if not kept:
        lines = ["The new master key opens by the passphrase only."]
    return lines + [
        f"Provider {name} was dropped: its envelope was for a master key of before."
        for name in dropped
    ]


def _way(directory: Path, info: EnvelopeInfo) -> OtherWay:
    header = info.header
    if header is None:
        words = f"provider {info.name}, if it is repaired ({printable(info.problem)})"
        return OtherWay(words, provider=info.name, may_be_used=False)
    facts = [header.type]
    if header.unattended:
        facts.append("unattended")
    if header.level != "full":
        facts.append(f"level {header.level}")
    return OtherWay(
        f"provider {info.name} ({', '.join(facts)})",
        tuple(printable(f"{key}={value}") for key, value in header.parameters.items()),
        info.name,
        _may_be_used(directory, header),
    )


def _may_be_used(directory: Path, header: EnvelopeHeader) -> bool:
    try:
        return may_be_used_unasked(directory, header)
    except ProviderError:
        return False  # It is not installed here, so nobody can tell.
