"""Opening a keystore by itself: what it is bound to, and what a thief of each thing gets.

The file ``auto-open.key`` is bound to nothing. A provider for unattended starts is bound to what
is not in the keystore: a secret of this machine, systemd, a command, the TPM. The one that is added
here is called ``auto-open``; ``tde keystore provider add --unattended`` adds others.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tde.errors import KeystoreError, KeystoreExistsError, KeystoreMissingError, ProviderError
from tde.keystore.envelopes import (
    EnvelopeInfo,
    EnvelopeTrial,
    add_envelope,
    list_providers,
    remove_envelope,
    try_envelope,
    unattended_providers,
)
from tde.keystore.host_secret import ensure_host_secret
from tde.keystore.keystore import Keystore
from tde.keystore.providers.acceptance import require_accepted
from tde.keystore.providers.auto_open import (
    AutoOpenProvider,
    auto_open_path,
    can_open_automatically,
    disable_auto_open,
)
from tde.keystore.providers.envelope_provider import EnvelopeProvider
from tde.keystore.providers.provider import MasterKeyProvider
from tde.keystore.providers.wrapper import make_provider
from tde.keystore.store.contents import list_envelopes
from tde.keystore.store.files import require_writable
from tde.keystore.store.reading import read_document
from tde.printable import printable

NAME = "auto-open"
UNBOUND = "file"
FORMS = ("host-secret:FILE", "command:COMMAND", "credential:NAME", "tpm2[:pcrs=LIST]")
_KEYS = "gets the keys, and with the data all rows"
_NOTHING = "gets nothing"
_RUNNING = f"{_KEYS}: whoever is root there, or the server's user, opens it as the server does"


@dataclass(frozen=True)
class Thieves:
    """What each gets who has the data as well: a sentence without its subject.

    Attributes:
        disk: who has the disk with the keystore.
        backup: who has a backup of the keystore.
        machine: who has the running machine, or becomes root on it.
    """

    disk: str
    backup: str
    machine: str


_THIEVES = {
    UNBOUND: Thieves(
        f"{_KEYS}, unless the disk itself is encrypted",
        f"{_KEYS}, if auto-open.key is in it (tde keystore backup leaves it out)",
        _RUNNING,
    ),
    "host-secret": Thieves(
        f"{_NOTHING}, unless the host secret is on the same disk or came with it",
        f"{_NOTHING}, unless the host secret is in a backup that was stolen too",
        _RUNNING,
    ),
    "secret-command": Thieves(
        f"{_NOTHING}, unless the command gives the secret to the stolen disk in another machine",
        f"{_NOTHING}, unless the command gives the secret elsewhere too",
        f"{_RUNNING}, until the other end refuses",
    ),
    "credential": Thieves(
        "gets what the unit's credential is worth: everything, if that is a plain file on the "
        "same disk; nothing, if systemd-creds has encrypted it with the TPM",
        f"{_NOTHING}, unless the credential is in a backup that was stolen too",
        _RUNNING,
    ),
    "tpm2": Thieves(
        f"{_NOTHING}: the key is in the TPM, which stays in the machine",
        _NOTHING,
        f"{_RUNNING}. Who steals the whole machine starts it, and the server with it: only what "
        "the machine then asks for keeps him out",
    ),
}
_OTHER = Thieves(
    f"{_NOTHING}, unless its provider serves him too",
    f"{_NOTHING}, unless its provider serves him too",
    f"{_RUNNING}, until the provider refuses",
)


@dataclass(frozen=True)
class Way:
    """A way in which a keystore opens by itself.

    Attributes:
        name: of its provider; empty for the file.
        type: of its provider; ``file`` for auto-open.key.
        level: ``full`` or ``wal``.
        problem: why it does not open the keystore right now; empty when it does, or was not tried.
        shares_disk: whether the host secret is on the same file system as the keystore.
    """

    name: str
    type: str
    level: str
    binding: str
    thieves: Thieves
    problem: str = ""
    remedy: str = ""
    shares_disk: bool = False

    @property
    def in_words(self) -> str:
        """What it is bound to, and its level, in one line."""
        level = "" if self.level == "full" else ", level wal"
        return f"bound to {self.binding}{level}"


def parse_binding(text: str) -> tuple[str, dict[str, str]]:
    """Return the type and the parameters of the provider that a binding names.

    Raises:
        KeystoreError: it names none.
    """
    kind, colon, rest = text.partition(":")
    if kind == "host-secret" and rest:
        return kind, {"file": rest}
    if kind == "command" and rest:
        return "secret-command", {"command": rest}
    if kind == "credential" and rest:
        return kind, {"name": rest}
    if kind == "tpm2" and not colon:
        return kind, {}
    pairs = [part.partition("=") for part in rest.split(";")]
    # A TCTI has colons and commas, so another sign parts the parameters.
    if kind == "tpm2" and all(key in ("pcrs", "tcti") and value for key, _, value in pairs):
        return kind, {key: value for key, _, value in pairs}
    raise KeystoreError(
        f"{text!r} is nothing that a keystore can be bound to",
        remedy=f"One of: {', '.join(FORMS)}. Anything else: tde keystore provider add --unattended",
    )


def bind_auto_open(
    keystore: Keystore, type_: str, parameters: Mapping[str, str], level: str
) -> Way:
    """Let a keystore open by itself by what it is bound to; ``auto-open.key`` is removed.

    A host secret that does not exist is made. The way is tried before it is written.

    Raises:
        KeystoreExistsError: it is bound to something already.
        KeystoreError: another of its subclasses: the binding cannot be used or written.
    """
    path = keystore.path
    if any(name == NAME for name, _ in list_envelopes(path)):
        raise KeystoreExistsError(
            f"the keystore {path} is bound to something already",
            remedy=f"tde keystore auto-open disable --keystore {path}, then repeat the command.",
        )
    require_writable(path)  # Before a secret is made that nothing is bound to.
    make_provider(type_, parameters)
    if type_ == "host-secret":
        ensure_host_secret(Path(parameters["file"]), path)
    add_envelope(keystore, NAME, type_, parameters, unattended=True, level=level)
    # Only now: a server that is started in between opens by one of both.
    if os.path.lexists(auto_open_path(path)):
        disable_auto_open(path)
    return _way(path, NAME, type_, level, parameters, None)


def ways_to_open(directory: Path, *, trying: bool = False, logged: bool = True) -> list[Way]:
    """Return the ways in which a keystore opens by itself, in the order in which they are tried.

    Args:
        trying: whether each is tried.
        logged: whether the key log tells of those that fail.

    Raises:
        KeystoreError: the keystore cannot be used.
    """
    directory = directory.resolve()
    read_document(directory)
    ways = [_way_by_file(directory, trying, logged)] if can_open_automatically(directory) else []
    return ways + [
        _way_by_provider(directory, info, trying, logged)
        for info in unattended_providers(directory)
    ]


def open_unseen(directory: Path, failed: list[tuple[str, str]]) -> Keystore | None:
    """Open a keystore as a start does, for who only asks whether that works; at level full.

    The key log tells neither of this nor of what fails.

    Args:
        failed: gets what has kept a way from it, and what to do.

    Raises:
        KeystoreError: the keystore cannot be used.
    """
    directory = directory.resolve()
    read_document(directory)
    if can_open_automatically(directory):
        # Where that file is there, a start tries nothing else.
        return _open_unseen(directory, "auto-open.key", AutoOpenProvider(), failed)
    for info in unattended_providers(directory):
        assert info.header is not None  # Or it could not be told that it is unattended.
        if info.header.level != "full":
            text = f"the provider {info.name} opens it at level {info.header.level} only"
            failed.append((text, "Sessions would get errors until somebody opens it."))
            continue
        provider = EnvelopeProvider(info.name, may_use_cache=False, unasked=True)
        opened = _open_unseen(directory, f"the provider {info.name}", provider, failed)
        if opened is not None:
            return opened
    return None


def _open_unseen(
    directory: Path, what: str, provider: MasterKeyProvider, failed: list[tuple[str, str]]
) -> Keystore | None:
    try:
        return Keystore.open_with(directory, provider, logged=False)
    except KeystoreError as error:
        failed.append((f"{what}: {error}", error.remedy))
        return None


def require_usable_way(directory: Path) -> None:
    """Refuse a keystore that would open by itself only in ways that were not accepted here.

    None is tried: what they need may be there only at a start, as a credential of systemd.

    Raises:
        KeystoreMissingError: it does not open by itself.
        ProviderError: of each way what it runs was not accepted on this machine.
    """
    directory = directory.resolve()
    if can_open_automatically(directory):
        return
    refusal: ProviderError | None = None
    for info in unattended_providers(directory):
        assert info.header is not None  # Or it could not be told that it is unattended.
        try:
            require_accepted(directory, info.header)
            return
        except ProviderError as error:
            refusal = refusal or error
    raise refusal or KeystoreMissingError(
        f"the keystore {directory} does not open by itself",
        remedy=f"Enable it: tde keystore auto-open enable --keystore {directory}",
    )


def disable_all(directory: Path) -> list[str]:
    """Remove every way in which a keystore opens by itself, and return what was removed.

    Of :func:`unread_envelopes` none is removed, because it may be the only way of other people.

    Raises:
        KeystoreError: one cannot be removed.
    """
    directory = directory.resolve()
    removed = []
    for info in list_providers(directory):
        if info.header is not None and info.header.unattended and info.name not in removed:
            remove_envelope(directory, info.name)
            removed.append(info.name)
    if disable_auto_open(directory):
        removed.insert(0, auto_open_path(directory).name)
    return removed


def unread_envelopes(directory: Path) -> list[EnvelopeInfo]:
    """Return the envelopes that cannot be read: repaired, they may open a keystore by themselves.

    Raises:
        KeystoreError: the keystore cannot be used.
    """
    return [info for info in list_providers(directory.resolve()) if info.header is None]


def _way_by_file(directory: Path, trying: bool, logged: bool) -> Way:
    problem = remedy = ""
    if trying:
        try:
            Keystore.open_with(directory, AutoOpenProvider(), logged=logged).close()
        except KeystoreError as error:
            problem, remedy = str(error), error.remedy
    file = str(auto_open_path(directory))
    return Way("", UNBOUND, "full", f"nothing: {file}", _THIEVES[UNBOUND], problem, remedy)


def _way_by_provider(directory: Path, info: EnvelopeInfo, trying: bool, logged: bool) -> Way:
    header = info.header
    if header is None:
        raise KeystoreMissingError(info.problem, remedy=info.remedy)
    trial = try_envelope(directory, info.name, unasked=True, logged=logged) if trying else None
    return _way(directory, info.name, header.type, header.level, header.parameters, trial)


def _way(
    directory: Path,
    name: str,
    type_: str,
    level: str,
    parameters: Mapping[str, str],
    trial: EnvelopeTrial | None,
) -> Way:
    facts = " ".join(f"{key}={value}" for key, value in parameters.items())
    return Way(
        name,
        type_,
        level,
        printable(f"{type_} {facts}".strip()),
        _THIEVES.get(type_, _OTHER),
        trial.problem if trial else "",
        trial.remedy if trial else "",
        type_ == "host-secret" and _shares_disk(directory, parameters.get("file", "")),
    )


def _shares_disk(directory: Path, file: str) -> bool:
    try:
        return directory.stat().st_dev == Path(file).stat().st_dev
    except OSError:
        return False
