"""Entries of the key log that tell of the life of keys (docs/format.md), and how they are written.

Each is written before the change that it tells of, like every entry of the log.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from socket import gethostname
from typing import NamedTuple

from tde.errors import KeystoreError
from tde.keystore.log.entry import LogEntry
from tde.keystore.log.reading import read_entries_of
from tde.keystore.log.writing import write_entry_if_possible
from tde.keystore.open_master_key import OpenMasterKey
from tde.keystore.store.reading import RecordReader
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
_OF_USE = (ACTIVATE, DEACTIVATE, SERVE, FORGET)


class Place(NamedTuple):
    """A cluster where it is: another one that comes to the same directory is another place.

    Attributes:
        directory: its data directory.
        system_identifier: in decimal, as ``pg_control`` has it; ``None`` before there is one.
    """

    directory: Path
    system_identifier: str | None = None

    def details(self) -> dict[str, str]:
        """Return what an entry about its keys says of it."""
        found = {"cluster": str(self.directory.absolute())}
        if self.system_identifier is not None:
            found["system_identifier"] = self.system_identifier
        return found


def places_of(entries: Iterable[LogEntry]) -> dict[int, Place]:
    """Return of which cluster each `ACTIVATE` and `DEACTIVATE` tells, by the entry's number.

    Earlier releases wrote no system identifier there, and before initdb there is none. Then it is
    that of the cluster of which the log tells in this directory before, or else next.
    """
    found: dict[int, Place] = {}
    known: dict[str, Place] = {}
    waiting: dict[str, list[int]] = {}
    for entry in entries:
        if entry.event not in _OF_USE:
            continue
        directory = directory_of(entry)
        identifier = entry.details.get("system_identifier")
        if entry.event == FORGET:
            known.pop(directory, None)
            waiting.pop(directory, None)
        elif identifier is not None:
            # A place is made once: there may be ten thousand entries of it.
            if directory not in known or known[directory].system_identifier != identifier:
                known[directory] = Place(Path(directory), str(identifier))
            found.update(dict.fromkeys(waiting.pop(directory, ()), known[directory]))
        if entry.event in (ACTIVATE, DEACTIVATE):
            if directory in known:
                found[entry.number] = known[directory]
            else:
                found[entry.number] = Place(Path(directory))
                waiting.setdefault(directory, []).append(entry.number)
    return found


def directory_of(entry: LogEntry) -> str:
    """Return the directory of the cluster or backup that an entry is about."""
    return str(entry.details.get("directory") or entry.details.get("cluster"))


def names_of(entry: LogEntry) -> dict[str, str]:
    """Return the files of keys that an entry names, and what it says of each."""
    keys = entry.details.get("keys", ())
    if isinstance(keys, Mapping):
        return {str(name): str(said) for name, said in keys.items()}
    return dict.fromkeys(map(str, keys), "") if isinstance(keys, Sequence) else {}


def activate_keys(keystore: OpenMasterKey, uses: Mapping[KeyOwner, str], cluster: Place) -> None:
    """Tell that a cluster begins to encrypt with keys, as far as that was not told.

    Args:
        uses: what each key is for, such as ``WAL`` or ``tablespace 16400``.

    Raises:
        KeystoreError: an officer has marked one as suspended or compromised, so that it must
            protect nothing new; or the entry could not be written.
    """
    entries = _entries_of(keystore, *_OF_USE, MARK)
    told = _told_active(entries, cluster)
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
    keystore: OpenMasterKey, reasons: Mapping[KeyOwner, str], cluster: Place
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
    entries = _entries_if_readable(keystore, directory, SERVE, BACKUP, FORGET)
    if entries is not None:
        event = BACKUP if is_backup else SERVE
        _tell_of_place(keystore, entries, event, Place(directory, str(system_identifier)))


def tell_of_use(keystore: OpenMasterKey, cluster: Place, uses: Mapping[KeyOwner, str]) -> None:
    """Tell of a cluster that the keystore serves and of the keys that it was found to encrypt with.

    What the log knows already is not told again, and what it cannot be told is no error, as for
    :func:`tell_of_place`. When a key came into use nobody knows, so its age counts from its
    creation. One that is marked is told of as well: it is in use.

    Args:
        uses: what each key is for; plaintext entries are left out.
    """
    entries = _entries_if_readable(keystore, cluster.directory, *_OF_USE, BACKUP)
    if entries is None:
        return
    _tell_of_place(keystore, entries, SERVE, cluster)
    told = _told_active(entries, cluster)
    reader = RecordReader(keystore.path)
    untold = {
        owner.file_name: use
        for owner, use in uses.items()
        if owner.file_name not in told and _is_key(reader, owner)
    }
    for some in _in_entries(untold):
        details = {**cluster.details(), "found": True, "keys": some}
        write_entry_if_possible(keystore.path, ACTIVATE, details, keystore.log_author())


def _entries_if_readable(
    keystore: OpenMasterKey, directory: Path, *names: str
) -> list[LogEntry] | None:
    try:
        return _entries_of(keystore, *names)
    except KeystoreError as error:
        _warnings.warning("%s; the key log is not told of %s", error, directory)
        return None


def _tell_of_place(
    keystore: OpenMasterKey, entries: Iterable[LogEntry], event: str, place: Place
) -> None:
    directory = str(place.directory.absolute())
    details = {"directory": directory, "system_identifier": place.system_identifier}
    told = ""
    for entry in entries:
        if entry.event not in (SERVE, BACKUP, FORGET) or directory_of(entry) != directory:
            continue
        # Another host may have another cluster at this path, or the same one after a move.
        is_same = entry.details == details and entry.who.get("host") == gethostname()
        told = entry.event if is_same else ""
    # What is known as a cluster stays one when it is named as a backup.
    if told not in (event, SERVE):
        write_entry_if_possible(keystore.path, event, details, keystore.log_author())


def _is_key(reader: RecordReader, owner: KeyOwner) -> bool:
    """Tell whether a record has a key; what is wrong with a record, others say."""
    try:
        return reader.read(owner).header.algorithm is not None
    except KeystoreError:
        return False


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


def told_active(keystore: OpenMasterKey, cluster: Place) -> dict[str, str]:
    """Return the keys that a cluster was told to encrypt with, by file, and what each is for.

    Raises:
        KeystoreError: the log cannot be read.
    """
    return _told_active(_entries_of(keystore, *_OF_USE), cluster)


def last_told(keystore: OpenMasterKey, cluster: Place | None) -> dict[str, str]:
    """Return which of `ACTIVATE` and `DEACTIVATE` was told last of keys, by file.

    Args:
        cluster: which clusters it was told of; ``None`` for any: one that has not told the end of
            its use counts before all others.

    Raises:
        KeystoreError: the log cannot be read.
    """
    every: dict[str, str] = {}
    for place, last in _last_of_places(_entries_of(keystore, *_OF_USE)).items():
        if cluster is None or _is_same(place, cluster):
            every.update({n: event for n, (event, _) in last.items() if every.get(n) != ACTIVATE})
    return every


def _told_active(entries: Iterable[LogEntry], cluster: Place) -> dict[str, str]:
    return {
        name: use
        for place, last in _last_of_places(entries).items()
        if _is_same(place, cluster)
        for name, (event, use) in last.items()
        if event == ACTIVATE
    }


def _last_of_places(entries: Iterable[LogEntry]) -> dict[Place, dict[str, tuple[str, str]]]:
    """Return by cluster and key what was told last: the event, and what it said of the key."""
    entries = list(entries)
    places = places_of(entries)
    found: dict[Place, dict[str, tuple[str, str]]] = {}
    for entry in entries:
        if entry.event == FORGET:
            gone = Path(directory_of(entry))
            found = {place: last for place, last in found.items() if place.directory != gone}
        elif entry.number in places:
            last = {name: (entry.event, said) for name, said in names_of(entry).items()}
            found.setdefault(places[entry.number], {}).update(last)
    return found


def _is_same(place: Place, cluster: Place) -> bool:
    """Tell whether the log may mean a cluster; where it has no identifier, the directory counts."""
    return place.directory == cluster.directory.absolute() and (
        None in (place.system_identifier, cluster.system_identifier)
        or place.system_identifier == cluster.system_identifier
    )


def _entries_of(keystore: OpenMasterKey, *events: str) -> list[LogEntry]:
    return read_entries_of(keystore.path, *events, author=keystore.log_author())


def _log_names(
    keystore: OpenMasterKey, event: str, names: Mapping[str, str], cluster: Place
) -> None:
    for some in _in_entries(names):
        keystore.log(event, **cluster.details(), keys=some)


def _in_entries(names: Mapping[str, str]) -> Iterator[dict[str, str]]:
    """Yield names in portions, each for an entry."""
    remaining = iter(names.items())
    while some := dict(islice(remaining, _NAMES_OF_AN_ENTRY)):
        yield some
