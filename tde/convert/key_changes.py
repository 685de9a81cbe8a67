"""Which keys a rekey replaces, and by which ones.

A tablespace gets a new random key, or that which another node has given it. The keystore has the
new key before the first block is written with it, and keeps the old one, which backups need. The
cluster's map says so at the end, in one step for all tablespaces of the rekey; until then
state.json knows both keys of each.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

from tde.algorithms import Algorithm
from tde.convert.blocks import CipherChange, CipherName
from tde.errors import ConversionError, DataDirectoryError, KeyMapError
from tde.page.codec import PageCipher
from tde.postgres.cluster.keymap import (
    KEYMAP_FILE,
    LONGEST_MAP,
    KeyMap,
    KeySource,
    MapEntry,
    map_key,
    parse_map,
    read_map,
    write_map,
)
from tde.postgres.cluster.page_ciphers import page_cipher
from tde.postgres.server.cluster_files import read_cluster_file
from tde.postgres.server.os_user import OsUser

if TYPE_CHECKING:
    from tde.keystore import Keystore


@dataclass(frozen=True, slots=True)
class KeyChange:
    """What the map says of a tablespace before the rekey and after it."""

    old: MapEntry
    new: MapEntry

    @property
    def oid(self) -> int:
        """The tablespace."""
        return self.old.oid

    def as_json(self) -> list[Any]:
        """Return what :func:`parse_changes` reads."""
        return [self.oid, *_pack(self.old), *_pack(self.new)]


def parse_changes(found: Iterable[Sequence[Any]]) -> tuple[KeyChange, ...]:
    """Return the changes that an authentic state.json tells of."""
    return tuple(
        KeyChange(_unpack(oid, old, old_id), _unpack(oid, new, new_id))
        for oid, old, old_id, new, new_id in found
    )


def _pack(entry: MapEntry) -> tuple[int, str | None]:
    return entry.source.value, None if entry.key_id is None else entry.key_id.hex


def _unpack(oid: int, source: int, key_id: str | None) -> MapEntry:
    return MapEntry(oid, KeySource(source), None if key_id is None else UUID(hex=key_id))


def new_keys(keymap: KeyMap, tablespaces: Iterable[int]) -> tuple[KeyChange, ...]:
    """Return changes to keys that do not exist yet."""
    return tuple(
        KeyChange(entry_of(keymap, oid), MapEntry(oid, KeySource.REKEYED, uuid4()))
        for oid in tablespaces
    )


def keys_of_other(
    keymap: KeyMap, other: KeyMap, tablespaces: Iterable[int], where: Path
) -> tuple[KeyChange, ...]:
    """Return changes to the keys that another node's map names, where these are others.

    Args:
        where: the other map, for the message.

    Raises:
        ConversionError: it does not know a tablespace, or has a key that was replaced here.
    """
    changes = []
    for oid in tablespaces:
        mine, theirs = entry_of(keymap, oid), other.find(oid)
        if theirs is None:
            raise ConversionError(
                f"{where} does not say what key tablespace {oid} has",
                remedy="Name the newest map of a node of this cluster that has the tablespace.",
            )
        if mine.owner != theirs.owner:
            _require_newer(keymap, theirs, where)
            changes.append(KeyChange(mine, theirs))
    return tuple(changes)


def _require_newer(keymap: KeyMap, theirs: MapEntry, where: Path) -> None:
    """Refuse a key that a rekey of this cluster, or of one that it was made from, has replaced."""
    was_rekeyed = entry_of(keymap, theirs.oid).source is KeySource.REKEYED
    if theirs in keymap.history or (was_rekeyed and theirs.source is not KeySource.REKEYED):
        raise ConversionError(
            f"{where} has a key of tablespace {theirs.oid} that this cluster has replaced: the "
            "map is older, or of a node that is yet to be rekeyed",
            remedy="Name the newest map of a node that was rekeyed after this one, or rekey that "
            "node with --same-keys-as and this one's map.",
        )


def require_distinct(keymap: KeyMap, changes: Iterable[KeyChange], present: Iterable[int]) -> None:
    """Check that no tablespace gets a key of another one, under which tweaks would repeat.

    Keys that were replaced count too, because backups have blocks of them.

    Args:
        present: the tablespaces that exist.

    Raises:
        ConversionError: one would.
    """
    after = KeyMap([*keymap.history, *(change.new for change in changes)])
    owners = {change.new.key_id: change.oid for change in changes}
    exist = set(present)
    for entry in after.history:
        if entry.key_id is None or entry.oid not in exist:
            continue
        oid = owners.get(entry.key_id, entry.oid)
        if oid != entry.oid:
            raise ConversionError(
                f"tablespace {oid} would get a key that tablespace {entry.oid} has or had",
                remedy="The map is of a server that has parted from this one. Rekey without it.",
            )


def entry_of(keymap: KeyMap, oid: int) -> MapEntry:
    """Return what a map says of a tablespace that it knows."""
    entry = keymap.find(oid)
    assert entry is not None  # A tablespace without one has no key, and is refused before.
    return entry


def read_other_map(path: Path, keystore: Keystore) -> KeyMap:
    """Return the map of another node, or a copy of it.

    Args:
        path: the file, or the data directory that has it.

    Raises:
        KeyMapError: it is missing, was altered, or is of another keystore.
    """
    file = path / KEYMAP_FILE if path.is_dir() else path
    try:
        data = read_cluster_file(file.parent, file.name, LONGEST_MAP)
    except (OSError, DataDirectoryError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise KeyMapError(
            f"the key map {file} cannot be read: {reason}",
            remedy=f"Name a copy of the other node's {KEYMAP_FILE}, or its data directory.",
        ) from error
    return parse_map(data, file, keystore.uuid, map_key(keystore))


def create_keys(
    keystore: Keystore, changes: Iterable[KeyChange], algorithms: Mapping[int, Algorithm]
) -> None:
    """Make the new keys durable in the keystore, with their entries in its log.

    Args:
        algorithms: of each tablespace's new key.

    Raises:
        KeystoreError: a key cannot be written.
    """
    for change in changes:
        keystore.create_key(change.new.owner, algorithms[change.oid])


@contextmanager
def open_changes(
    keystore: Keystore, changes: Iterable[KeyChange]
) -> Iterator[dict[CipherName, CipherChange]]:
    """Yield both ciphers of each tablespace by its OID.

    The map is not asked: in the last steps of a rekey it may say the one or the other.

    Raises:
        KeystoreError: a key is missing or damaged.
        ConversionError: one is a plaintext entry.
    """
    with ExitStack() as stack:
        yield {
            change.oid: CipherChange(
                stack.enter_context(open_cipher(keystore, change.old)),
                stack.enter_context(open_cipher(keystore, change.new)),
            )
            for change in changes
        }


def open_cipher(keystore: Keystore, entry: MapEntry) -> PageCipher:
    """Return the cipher of a tablespace with the key that an entry means.

    Raises:
        KeystoreError: the key is missing or damaged.
        ConversionError: it is a plaintext entry.
    """
    cipher = find_cipher(keystore, entry)
    if cipher is None:
        raise ConversionError(
            f"tablespace {entry.oid} is in plaintext: there is no key to replace",
            remedy="To encrypt it, make a tablespace with a key and move the tables: "
            "ALTER TABLE ... SET TABLESPACE.",
        )
    return cipher


def find_cipher(keystore: Keystore, entry: MapEntry) -> PageCipher | None:
    """Return the same, and ``None`` for a plaintext entry."""
    found = KeyMap([entry]).key_of(keystore, entry.oid)
    return None if found is None else page_cipher(found)


def read_changed_map(
    data_directory: Path, keystore: Keystore, changes: Sequence[KeyChange]
) -> KeyMap:
    """Return the map of a cluster, which says the old keys, or the new ones.

    Raises:
        ConversionError: it is not the map that the rekey has found.
        KeyMapError: it is missing or cannot be used.
    """
    keymap = read_map(data_directory, keystore.uuid, map_key(keystore))
    found = [keymap.find(change.oid) for change in changes]
    if found not in ([change.old for change in changes], [change.new for change in changes]):
        raise ConversionError(
            f"{data_directory / KEYMAP_FILE} is not the map with which the rekey began",
            remedy="Somebody has put another one there. Put back the one that was there, and "
            "repeat the command; or restore the cluster from a backup.",
        )
    return keymap


def write_changes(
    data_directory: Path,
    keystore: Keystore,
    changes: Sequence[KeyChange],
    os_user: OsUser | None,
) -> None:
    """Let the map of a cluster say the new keys, of all tablespaces at once; repeating is harmless.

    Raises:
        TdeError: as for :func:`read_changed_map`.
        OSError: it cannot be written.
    """
    keymap = read_changed_map(data_directory, keystore, changes)
    if all(keymap.find(change.oid) == change.new for change in changes):
        return
    entries = [*keymap.history, *(change.new for change in changes)]
    write_map(data_directory, entries, keystore, os_user)
