"""Reading the lives of the keys of a keystore, open or not."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from tde.algorithms import Algorithm
from tde.keystore.lifecycle import events
from tde.keystore.lifecycle.fold import fact_of, fold_lives
from tde.keystore.lifecycle.limits import AgeLimits, limits_of
from tde.keystore.lifecycle.states import Fact, KeystoreLife, KeyUse, KnownPlace, SecretLife
from tde.keystore.log.entry import LogEntry
from tde.keystore.log.reading import ROTATION_EVENT, KeyLog, read_key_log
from tde.keystore.open_master_key import OpenMasterKey
from tde.keystore.store.contents import being_destroyed
from tde.keystore.store.document import KeystoreHeader
from tde.keystore.store.reading import RecordReader, list_owners, read_document
from tde.keystore.store.record import KeyOwner

_OF_PLACES = (events.ACTIVATE, events.SERVE, events.BACKUP, events.FORGET)
_LOG_IS_YOUNGER = "unknown: the key log is younger than the keystore"


def read_lives(
    path: Path,
    keystore: OpenMasterKey | None = None,
    *,
    records: Mapping[KeyOwner, Algorithm | None] | None = None,
    uses: Iterable[KeyUse] = (),
) -> KeystoreLife:
    """Return the lives of all keys of a keystore, its master key and its passphrase.

    Args:
        path: the keystore's directory.
        keystore: the same, open: then each entry of the log must be authentic, and what is wrong is
            among the problems.
        records: whose records are there, with their algorithms, where the caller has read them.
        uses: what clusters do with the keys now (:mod:`tde.postgres.cluster.key_uses`).

    Raises:
        KeystoreError: one of its subclasses: there is no keystore, or a file cannot be used.
    """
    path = path.resolve()
    header = read_document(path).header
    author = None if keystore is None else keystore.log_author()
    log = read_key_log(path, author)
    entries = log.counting
    limits = limits_of(entries)
    if records is None:
        records = _read_records(path)
    unfinished = [file.name.removesuffix(".destroying") for file in being_destroyed(path)]
    return KeystoreLife(
        path=path,
        keys=fold_lives(entries, records, limits, uses, unfinished),
        master_key=_master_key(log, header, limits),
        passphrase=_passphrase(log, header, limits),
        limits=limits,
        places=known_places(entries),
        newest=max((entry.time for entry in log.entries), default=None),
        problems=log.problems,
        proven=keystore is not None and not log.problems,
        begins_with_the_keystore=log.begins_with_the_keystore,
    )


def _read_records(path: Path) -> dict[KeyOwner, Algorithm | None]:
    owners = list_owners(path)
    reader = RecordReader(path)
    return {owner: reader.read(owner).header.algorithm for owner in owners}


def known_places(entries: Iterable[LogEntry]) -> list[KnownPlace]:
    """Return the clusters and backups that a log tells of, without those that are said to be gone.

    A cluster that only has keys in use, as one that ``tde pg init`` has made and nobody started, is
    among them. One directory is several places where another cluster came to it, and where the log
    has entries of several hosts.
    """
    entries = list(entries)
    clusters = events.places_of(entries)
    places: dict[tuple[str, str | None, str], KnownPlace] = {}
    for entry in entries:
        if entry.event not in _OF_PLACES:
            continue
        directory, host = events.directory_of(entry), str(entry.who.get("host", ""))
        if entry.event == events.FORGET:
            places = {key: place for key, place in places.items() if key[0] != directory}
        elif entry.event in (events.SERVE, events.BACKUP):
            identifier = str(entry.details.get("system_identifier"))
            places[directory, identifier, host] = _known_place(entry, directory, identifier, host)
        else:
            key = directory, clusters[entry.number].system_identifier, host
            if key not in places:
                places[key] = _known_place(entry, *key)
    return list(places.values())


def _known_place(entry: LogEntry, directory: str, identifier: str | None, host: str) -> KnownPlace:
    number = int(identifier) if identifier is not None and identifier.isdecimal() else None
    is_backup = entry.event == events.BACKUP
    return KnownPlace(Path(directory), is_backup, number, fact_of(entry), host)


def _master_key(log: KeyLog, header: KeystoreHeader, limits: AgeLimits) -> SecretLife:
    own = header.master_key_id.hex
    # One that was interrupted has changed nothing: its new master key is not that of now.
    rotations = [entry for entry in log.counting if entry.event == ROTATION_EVENT]
    last = [entry for entry in rotations if entry.details.get("new") == own]
    since = _since(log, header, last[-1:])
    return SecretLife(events.OF_MASTER, since, len(rotations), limits.of_master_key)


def _passphrase(log: KeyLog, header: KeystoreHeader, limits: AgeLimits) -> SecretLife:
    changes = [entry for entry in log.counting if entry.event == "change passphrase"]
    since = _since(log, header, changes[-1:])
    return SecretLife(events.OF_PASSPHRASE, since, len(changes), limits.of_passphrase)


def _since(log: KeyLog, header: KeystoreHeader, last: Sequence[LogEntry]) -> Fact:
    """Return when a secret was made: by its last change, or with the keystore."""
    if last:
        return fact_of(last[0])
    if log.begins_with_the_keystore:
        return fact_of(log.entries[0])
    return Fact(None, f"{_LOG_IS_YOUNGER}, which was made on {header.created:%Y-%m-%d}")
