"""tde.keymap in an encrypted data directory: what key tablespaces and WAL have (docs/format.md).

The server decides when a tablespace is made, and appends an entry (c_ext/interpose/keys/decide.c);
here is the same format in Python, for those that make a cluster or look at one. Of several
entries for one OID the last counts. Entries are authenticated in a chain, each with all before it.
"""

from __future__ import annotations

import errno
import hashlib
import hmac
import os
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import UUID

from tde.errors import DataDirectoryError, KeyMapError, KeyMissingError
from tde.postgres.facts import BUILT_IN_TABLESPACES
from tde.postgres.server.cluster_files import read_beginning
from tde.postgres.server.os_user import OsUser
from tde.postgres.server.owned_files import locked_owned_file, write_owned_file

if TYPE_CHECKING:
    from tde.algorithms import Algorithm
    from tde.keystore import KeyOwner, Keystore

KEYMAP_FILE = "tde.keymap"
LABEL = b"tde key map"

#: Where a map that was lost comes from: a rekey replaces keys, and each node has its own.
MAP_SOURCE = "the newest base backup of this server, made after its last tde tablespace rekey"

_UNIT = 64
_CODE = 32
_MAGIC = b"TDEMAP\x00\x01"
_HEADER = struct.Struct(">8s8x16s")
_ENTRY = struct.Struct(">IB11s16s")
LONGEST_MAP = 64 << 20  # Bytes, as in C.


class KeySource(Enum):
    """Where a key comes from; the value is the code in the map."""

    DERIVED = 1
    RECORD = 2
    NAMED = 3
    REKEYED = 4
    WAL = 5
    WAL_READ = 6

    @property
    def is_of_wal(self) -> bool:
        """Whether the entry is about WAL, and not about a tablespace."""
        return self in (KeySource.WAL, KeySource.WAL_READ)

    @property
    def has_id(self) -> bool:
        """Whether the entry has the id of the key."""
        return self not in (KeySource.DERIVED, KeySource.RECORD)


@dataclass(frozen=True)
class MapEntry:
    """What was decided for one tablespace, or for WAL.

    Attributes:
        oid: of the tablespace; 0 for WAL.
        key_id: of a key that has one; else ``None``.
    """

    oid: int
    source: KeySource
    key_id: UUID | None = None

    @property
    def owner(self) -> KeyOwner:
        """Whose record in the keystore has the key, or the key that it is derived from."""
        from tde.keystore import KeyOwner

        if self.key_id is not None:
            return KeyOwner.named(self.key_id)
        if self.source is KeySource.RECORD:
            return KeyOwner.tablespace(self.oid)
        return KeyOwner.other_tablespaces()


class KeyMap:
    """The decisions of a cluster.

    Attributes:
        history: all of them, in their order.
        entries: those that count for tablespaces, by OID.
        wal_keys: ids of the later keys of WAL, of which the last is written with.
        foreign_wal_keys: ids of those that other servers have used, for WAL that is here.
    """

    def __init__(self, entries: Iterable[MapEntry] = ()) -> None:
        self.history = tuple(entries)
        self.entries: Mapping[int, MapEntry] = {
            entry.oid: entry for entry in self.history if not entry.source.is_of_wal
        }
        self.wal_keys = self._ids_of(KeySource.WAL)
        self.foreign_wal_keys = self._ids_of(KeySource.WAL_READ)

    def _ids_of(self, source: KeySource) -> Sequence[UUID]:
        found = (entry.key_id for entry in self.history if entry.source is source)
        return [key_id for key_id in found if key_id is not None]

    @property
    def all_wal_keys(self) -> Sequence[UUID]:
        """The ids of all later keys of WAL that may be needed, each once."""
        return list(dict.fromkeys((*self.wal_keys, *self.foreign_wal_keys)))

    def find(self, oid: int) -> MapEntry | None:
        """Return the decision for a tablespace, or ``None`` when there is none.

        Those that initdb makes have their own records until one has been rekeyed.
        """
        entry = self.entries.get(oid)
        if entry is None and oid in BUILT_IN_TABLESPACES:
            return MapEntry(oid, KeySource.RECORD)
        return entry

    def key_of(self, keystore: Keystore, oid: int) -> tuple[Algorithm, bytearray] | None:
        """Return the algorithm and the key of a tablespace; ``None`` when it is in plaintext.

        Raises:
            KeyMissingError: the map has no entry for it, or its key is not in the keystore.
            KeystoreError: the key's record cannot be used.
        """
        entry = self.find(oid)
        if entry is None:
            raise KeyMissingError(
                f"{KEYMAP_FILE} does not say what key tablespace {oid} has",
                remedy=f"Restore {KEYMAP_FILE} from {MAP_SOURCE}.",
            )
        if entry.source is KeySource.DERIVED:
            return keystore.derived_key(oid)
        return keystore.key_of(entry.owner)


def pack_map(entries: Iterable[MapEntry], keystore: UUID, key: bytes) -> bytes:
    """Return the content of a map.

    Args:
        keystore: the keystore that has the keys.
        key: authenticates it; :func:`map_key` has it.
    """
    header = _HEADER.pack(_MAGIC, keystore.bytes)
    content = header + _code(key, header)
    for entry in entries:
        body = _pack_entry(entry)
        content += body + _code(key, content[-_CODE:] + body)
    return content


def parse_map(data: bytes, path: Path, keystore: UUID, key: bytes | None) -> KeyMap:
    """Return the map in ``data``; ``path`` names it in messages.

    Args:
        key: without it only the form is checked, which is enough to show the map.

    Raises:
        KeyMapError: it is damaged, was altered, or is another cluster's.
    """
    if len(data) < _UNIT:
        raise _unusable(path, "it is shorter than its header")
    magic, owner = _HEADER.unpack_from(data)
    if magic[:-1] != _MAGIC[:-1]:
        raise _unusable(path, "it is not a key map")
    if magic != _MAGIC:
        raise _unusable(path, "its format version is not known to this version of tde")
    if owner != keystore.bytes:
        raise _unusable(path, "it belongs to another keystore")
    _check_code(key, data[: _UNIT - _CODE], data[_UNIT - _CODE : _UNIT], path)
    entries = []
    for at in range(_UNIT, len(data) - _UNIT + 1, _UNIT):
        body, code = data[at : at + _CODE], data[at + _CODE : at + _UNIT]
        if not any(data[at:]):
            break  # The file had become longer when the machine failed, but had no content yet.
        _check_code(key, data[at - _CODE : at] + body, code, path)
        entries.append(_parse_entry(body, path))
    return KeyMap(entries)


def _parse_entry(body: bytes, path: Path) -> MapEntry:
    oid, source, zeros, key_id = _ENTRY.unpack(body)
    try:
        known = KeySource(source)
    except ValueError:
        known = None
    if (
        known is None
        or (oid == 0) is not known.is_of_wal
        or any(zeros)
        or (any(key_id) and not known.has_id)
    ):
        raise _unusable(path, "it has an entry that is not known to this version of tde")
    return MapEntry(oid, known, UUID(bytes=key_id) if known.has_id else None)


def map_key(keystore: Keystore) -> bytes:
    """Return the key that authenticates the map of the keystore's cluster.

    Raises:
        KeystoreError: the WAL key, which it is derived from, cannot be used.
    """
    return keystore.authentication_key(LABEL)


def read_map(data_directory: Path, keystore: UUID, key: bytes | None) -> KeyMap:
    """Return the map of a cluster; the arguments are those of :func:`parse_map`.

    Raises:
        KeyMapError: it is missing or cannot be used.
    """
    path = data_directory / KEYMAP_FILE
    try:
        data = read_beginning(data_directory, KEYMAP_FILE, LONGEST_MAP)
    except OSError as error:
        raise _unusable(path, error.strerror or str(error)) from error
    except DataDirectoryError as error:
        raise _unusable(path, str(error)) from error
    return parse_map(data, path, keystore, key)


def write_map(
    data_directory: Path, entries: Iterable[MapEntry], keystore: Keystore, os_user: OsUser | None
) -> None:
    """Write a map into a cluster whose server does not run, in the place of the one that it has.

    Raises:
        KeystoreError: the WAL key cannot be used.
        OSError: it cannot be written.
    """
    content = pack_map(entries, keystore.uuid, map_key(keystore))
    write_owned_file(data_directory / KEYMAP_FILE, content, os_user)


def append_entry(
    data_directory: Path, entry: MapEntry, keystore: Keystore, os_user: OsUser | None
) -> None:
    """Add a decision to the map of a cluster, whose server may run and append to it as well.

    Raises:
        KeyMapError: the map is missing or cannot be used.
        KeystoreError: the WAL key cannot be used.
        OSError: it cannot be written; it is then as it was.
    """
    key = map_key(keystore)
    path = data_directory / KEYMAP_FILE
    with locked_owned_file(path, os_user) as file:
        data = file.read(LONGEST_MAP)
        parse_map(data, path, keystore.uuid, key)
        usable = _usable_length(data)
        body = _pack_entry(entry)
        # What an append that was interrupted has left goes first; nobody has read it as an entry.
        descriptor = file.fileno()
        os.ftruncate(descriptor, usable)
        entry_bytes = body + _code(key, data[usable - _CODE : usable] + body)
        try:
            if os.pwrite(descriptor, entry_bytes, usable) != len(entry_bytes):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
            os.fsync(descriptor)
        except OSError:
            os.ftruncate(descriptor, usable)
            raise


def _usable_length(data: bytes) -> int:
    """Return the end of the last whole entry of a map that was checked."""
    ends = range(_UNIT, len(data) - _UNIT + 1, _UNIT)
    return next((at for at in ends if not any(data[at:])), len(data) // _UNIT * _UNIT)


def _pack_entry(entry: MapEntry) -> bytes:
    key_id = bytes(16) if entry.key_id is None else entry.key_id.bytes
    return _ENTRY.pack(entry.oid, entry.source.value, b"", key_id)


def _code(key: bytes, data: bytes) -> bytes:
    return hmac.new(key, data, hashlib.sha256).digest()


def _check_code(key: bytes | None, data: bytes, code: bytes, path: Path) -> None:
    if key is not None and not hmac.compare_digest(_code(key, data), code):
        raise _unusable(path, "it is damaged or was altered")


def _unusable(path: Path, why: str) -> KeyMapError:
    return KeyMapError(
        f"the key map {path} cannot be used: {why}",
        remedy=f"Restore {KEYMAP_FILE} from {MAP_SOURCE}; without it nobody knows which key a "
        "tablespace has.",
    )
