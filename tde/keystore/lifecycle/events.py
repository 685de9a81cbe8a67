"""Entries of the key log that tell of the life of keys (docs/format.md), and how they are written.

Each is written before the change that it tells of, like every entry of the log.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path

from tde.errors import KeystoreError
from tde.keystore.log.entry import LogEntry
from tde.keystore.log.reading import read_entries_of
from tde.keystore.log.writing import write_entry_if_possible
from tde.keystore.open_master_key import OpenMasterKey
from tde.keystore.store.record import KeyOwner

CREATE = "create key"
ADD = "add keys"
DISCARD = "discard keys"
ACTIVATE = "activate keys"
DEACTIVATE = "deactivate keys"
MARK = "mark key"
LIMIT = "set age limit"
SERVE = "serve cluster"
BACKUP = "look at backup"
FORGET = "forget cluster"
DESTROY = "destroy key"
KEEP = "keep key"
DESTROYED = "key destroyed"

#: What a limit is for, when it is not for one key, which its file names.
OF_ALL, OF_WAL, OF_MASTER, OF_PASSPHRASE = "all", "wal", "master key", "passphrase"

# An entry with so many names stays below the longest line of the log.
_NAMES_OF_AN_ENTRY = 400
_warnings = logging.getLogger("tde.keystore")
_UNUSABLE = ("suspended", "compromised")


def names_of(entry: LogEntry) -> dict[str, str]:
    """Return the files of keys that an entry names, and what it says of each."""
    keys = entry.details.get("keys", ())
    if isinstance(keys, Mapping):
        return {str(name): str(said) for name, said in keys.items()}
    return dict.fromkeys(map(str, keys), "") if isinstance(keys, Sequence) else {}


def activate_keys(keystore: OpenMasterKey, uses: Mapping[KeyOwner, str], cluster: Path) -> None:
    """Tell that a cluster begins to encrypt with keys, as far as that was not told.

    Args:
        uses: what each key is for, such as ``WAL`` or ``tablespace 16400``.
        cluster: its data directory.

    Raises:
        KeystoreError: an officer has marked one as suspended or compromised, so that it must
            protect nothing new; or the entry could not be written.
    """
    entries = _entries_of(keystore, ACTIVATE, DEACTIVATE, FORGET, MARK)
    told = _told_active(entries, str(cluster.absolute()))
    marks = {
        str(entry.details.get("key")): str(entry.details.get("state"))
        for entry in entries
        if entry.event == MARK
    }
    for owner in uses:
        if marks.get(owner.file_name) in _UNUSABLE:
            raise KeystoreError(
                f"{owner} is marked as {marks[owner.file_name]}, so it must protect nothing new",
                remedy="Use another key. See tde keystore history.",
            )
    wanted = {o.file_name: use for o, use in uses.items() if told.get(o.file_name) != use}
    _log_names(keystore, ACTIVATE, wanted, cluster)


def deactivate_keys(
    keystore: OpenMasterKey, reasons: Mapping[KeyOwner, str], cluster: Path
) -> None:
    """Tell that a cluster encrypts nothing new with keys, as far as it was told that it did.

    A key that was never told to be in use, as by an earlier release, is told of as well.

    Args:
        reasons: why, for each key, such as ``rekeyed`` or ``WAL was rotated``.

    Raises:
        KeystoreError: the entry could not be written.
    """
    last = last_told(keystore, cluster)
    wanted = {
        owner.file_name: why
        for owner, why in reasons.items()
        if last.get(owner.file_name) != DEACTIVATE
    }
    _log_names(keystore, DEACTIVATE, wanted, cluster)


def tell_of_place(
    keystore: OpenMasterKey, directory: Path, system_identifier: int, *, is_backup: bool = False
) -> None:
    """Tell of a cluster that the keystore serves, or of a backup, unless the log knows it already.

    It changes nothing, so neither a full disk of the keystore nor a log that cannot be read keeps a
    server from its start.
    """
    event = BACKUP if is_backup else SERVE
    details = {
        "directory": str(directory.absolute()),
        "system_identifier": str(system_identifier),
    }
    told = None
    try:
        entries = _entries_of(keystore, SERVE, BACKUP, FORGET)
    except KeystoreError as error:
        _warnings.warning("%s; the key log is not told of %s", error, directory)
        return
    for entry in entries:
        if entry.details.get("directory") == details["directory"]:
            told = (entry.event, entry.details)
    # What is known as a cluster stays one when it is named as a backup.
    same = told is not None and told[1] == details and told[0] in (event, SERVE)
    if not same:
        write_entry_if_possible(keystore.path, event, details, keystore.log_author())


def destroyed_keys(entries: Iterable[LogEntry]) -> dict[str, LogEntry]:
    """Return the files of keys that were destroyed, or are to be, with the entry that says so."""
    return _destructions(entries, DESTROY)


def finished_destructions(entries: Iterable[LogEntry]) -> dict[str, LogEntry]:
    """Return the files of keys that are gone for good, with the entry that says so."""
    return _destructions(entries, DESTROYED)


def _destructions(entries: Iterable[LogEntry], event: str) -> dict[str, LogEntry]:
    found: dict[str, LogEntry] = {}
    for entry in entries:
        name = entry.details.get("key")
        if not isinstance(name, str):
            continue
        if entry.event == event:
            found[name] = entry
        elif entry.event in (KEEP, CREATE):
            found.pop(name, None)
    return found


def told_active(keystore: OpenMasterKey, cluster: Path) -> dict[str, str]:
    """Return the keys that a cluster was told to encrypt with, by file, and what each is for.

    Raises:
        KeystoreError: the log cannot be read.
    """
    entries = _entries_of(keystore, ACTIVATE, DEACTIVATE, FORGET)
    return _told_active(entries, str(cluster.absolute()))


def last_told(keystore: OpenMasterKey, cluster: Path | None) -> dict[str, str]:
    """Return which of `ACTIVATE` and `DEACTIVATE` was told last of keys, by file.

    Args:
        cluster: which clusters it was told of; ``None`` for any: one that has not told the end of
            its use counts before all others.

    Raises:
        KeystoreError: the log cannot be read.
    """
    told: dict[str, dict[str, str]] = {}
    for entry in _entries_of(keystore, ACTIVATE, DEACTIVATE, FORGET):
        if entry.event == FORGET:
            told.pop(str(entry.details.get("directory")), None)
        else:
            place = str(entry.details.get("cluster"))
            told.setdefault(place, {}).update(dict.fromkeys(names_of(entry), entry.event))
    if cluster is not None:
        return told.get(str(cluster.absolute()), {})
    every: dict[str, str] = {}
    for last in told.values():
        every.update({name: ev for name, ev in last.items() if every.get(name) != ACTIVATE})
    return every


def _told_active(entries: Iterable[LogEntry], cluster: str) -> dict[str, str]:
    active: dict[str, str] = {}
    for entry in entries:
        if entry.event == FORGET and entry.details.get("directory") == cluster:
            active.clear()
        if entry.details.get("cluster") != cluster:
            continue
        if entry.event == ACTIVATE:
            active.update(names_of(entry))
        elif entry.event == DEACTIVATE:
            for name in names_of(entry):
                active.pop(name, None)
    return active


def _entries_of(keystore: OpenMasterKey, *events: str) -> list[LogEntry]:
    return read_entries_of(keystore.path, *events, author=keystore.log_author())


def _log_names(
    keystore: OpenMasterKey, event: str, names: Mapping[str, str], cluster: Path
) -> None:
    remaining = iter(names.items())
    while some := dict(islice(remaining, _NAMES_OF_AN_ENTRY)):
        keystore.log(event, cluster=str(cluster.absolute()), keys=some)
