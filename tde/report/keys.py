"""The keystore in a report: ways to open it, every key, and the key log."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path

from tde.keystore import (
    KeyInfo,
    KeyOwner,
    Keystore as OpenKeystore,
    LogEntry,
    OwnerKind,
    inspect_keystore,
    list_keys,
    read_key_log,
)
from tde.keystore.log.reading import FIRST_EVENT, ROTATION_EVENT
from tde.postgres.cluster.cluster import Cluster
from tde.postgres.cluster.keymap import KeyMap, map_key
from tde.postgres.cluster.landed_keys import known_map
from tde.postgres.cluster.links import tablespace_oids
from tde.postgres.facts import BUILT_IN_TABLESPACES
from tde.report.model import Key, KeyLog, Keystore, LogLine, WayToOpen

_LAST = 20  # Entries of the key log.
_OPENED, _FAILED = "open keystore", "fail to open keystore"
_HIDDEN = ("keystore", "sealed", "sha256")


def keystore_facts(keystore: OpenKeystore, log: Sequence[LogEntry]) -> Keystore:
    """Return what the keystore says of itself.

    Raises:
        KeystoreError: it cannot be looked at.
    """
    status = inspect_keystore(keystore.path)
    rotated = [entry for entry in log if entry.event in (FIRST_EVENT, ROTATION_EVENT)]
    kdf = status.kdf
    ways = [
        WayToOpen(
            "passphrase",
            f"Argon2id, {kdf.memory_kib // 1024} MiB, {kdf.iterations} iterations, {kdf.lanes} "
            "lanes",
            "a thief of the keystore has to guess the passphrase, at that cost each time",
        )
    ]
    if status.auto_open:
        ways.append(
            WayToOpen(
                "auto-open",
                "the file auto-open.key in the keystore opens it without a passphrase",
                "a thief of the keystore, or of a backup of it with that file, has the keys",
            )
        )
    return Keystore(
        status.path,
        status.uuid,
        status.created,
        status.master_key_id,
        _since(rotated, status.master_key_id.hex),
        status.rotation_unfinished,
        tuple(ways),
    )


def _since(entries: Sequence[LogEntry], master_key: str) -> datetime | None:
    for entry in reversed(entries):
        if entry.event == FIRST_EVENT or entry.details.get("new") == master_key:
            return entry.time
    return None


def key_rows(keystore: OpenKeystore, cluster: Cluster, log: Sequence[LogEntry]) -> tuple[Key, ...]:
    """Return every key of the keystore, with what it is used for in a cluster.

    Raises:
        KeystoreError: the directory of the keys cannot be read.
        KeyMapError: the key map of the cluster cannot be used.
    """
    keymap = known_map(cluster.data_directory, keystore.path, map_key(keystore))
    uses = _uses(keymap, cluster.data_directory)
    created = _created(log)
    rows = []
    for info in list_keys(keystore):
        used_for = uses.get(_name_of(info.owner), [])
        rows.append(_row(info, used_for, _state(info.owner, used_for, keymap), created))
    return tuple(rows)


def _name_of(owner: KeyOwner) -> str:
    """Return what tells keys apart: the map knows a key of WAL by its id, and not its number."""
    return owner.file_name if owner.key_id is None else owner.key_id.hex


def _uses(keymap: KeyMap, data_directory: Path) -> Mapping[str, list[str]]:
    """Return, by key, what of the cluster has it now."""
    wal = keymap.wal_keys[-1].hex if keymap.wal_keys else KeyOwner.wal().file_name
    uses = {wal: ["new WAL"]}
    for oid in sorted({*BUILT_IN_TABLESPACES, *tablespace_oids(data_directory)}):
        entry = keymap.find(oid)
        if entry is not None:
            name = BUILT_IN_TABLESPACES.get(oid) or f"tablespace {oid}"
            uses.setdefault(_name_of(entry.owner), []).append(name)
    return uses


def _state(owner: KeyOwner, used_for: Sequence[str], keymap: KeyMap) -> str:
    """Return the state of a key in the words of NIST SP 800-57, part 1, section 7."""
    if used_for or owner.kind is OwnerKind.OTHER_TABLESPACES:
        return "active"
    was_used = {entry.key_id for entry in keymap.history if entry.key_id is not None}
    # The keys of initdb's tablespaces and the first of WAL have no entry in the map.
    is_first = owner.kind is OwnerKind.WAL or owner.oid in BUILT_IN_TABLESPACES
    if is_first or owner.key_id in was_used:
        return "deactivated"
    return "pre-activation"


def _created(log: Sequence[LogEntry]) -> Mapping[str, datetime]:
    created = {}
    for entry in log:
        name = entry.details.get("key")
        if entry.event == "create key" and isinstance(name, str):
            created[name] = entry.time
    return created


def _row(
    info: KeyInfo, used_for: Sequence[str], state: str, created: Mapping[str, datetime]
) -> Key:
    file = info.owner.file_name
    name = BUILT_IN_TABLESPACES.get(info.owner.oid)
    return Key(
        file=file,
        owner=f"{info.owner} ({name})" if name else str(info.owner),
        algorithm=info.algorithm.label if info.algorithm else "",
        state="" if info.is_plaintext_entry else state,
        used_for=", ".join(used_for),
        created=created.get(file),
        problem=info.problem,
        remedy=info.remedy,
    )


def key_log(keystore: OpenKeystore) -> tuple[KeyLog, Sequence[LogEntry]]:
    """Return the key log as a report shows it, and its entries.

    Raises:
        KeystoreError: it cannot be read.
    """
    found = read_key_log(keystore.path, keystore.log_author())
    entries = found.entries
    changes = [entry for entry in entries if entry.event not in (_OPENED, _FAILED)]
    return (
        KeyLog(
            found.path,
            len(entries),
            found.confirmed or 0,
            found.begins_with_the_keystore,
            tuple(found.problems),
            sum(entry.event == _OPENED for entry in entries),
            tuple(_lines(changes)),
            tuple(_lines(entry for entry in entries if entry.event == _FAILED)),
            tuple(_lines(entries[-_LAST:])),
        ),
        entries,
    )


def _lines(entries: Iterable[LogEntry]) -> Iterator[LogLine]:
    for entry in entries:
        user, login = str(entry.who.get("user", "?")), entry.who.get("login")
        shown = (f"{n} {v}" for n, v in entry.details.items() if n not in _HIDDEN)
        yield LogLine(
            entry.number,
            entry.time,
            entry.event,
            user if login in (None, user) else f"{login} as {user}",
            str(entry.who.get("host", "")),
            str(entry.who.get("command", "")),
            ", ".join(shown),
        )
