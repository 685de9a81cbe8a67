"""What a cluster, or a backup of one, does with the keys of its keystore, by its map and files."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import UUID

from tde import _core
from tde.errors import ClusterKeystoreError, DataDirectoryError
from tde.postgres.cluster.keymap import KeyMap, KeySource, MapEntry, map_key
from tde.postgres.cluster.keystore_verification import require_marker, tablespaces_in
from tde.postgres.cluster.landed_keys import known_map
from tde.postgres.cluster.links import names_its_key
from tde.postgres.cluster.scope import Scope
from tde.postgres.cluster.unfinished_conversion import require_not_converting
from tde.postgres.cluster.wal_segments import segments_by_key
from tde.postgres.facts import BUILT_IN_TABLESPACES, CONTROL_FILE
from tde.postgres.server.cluster_files import read_beginning
from tde.postgres.server.pidfile import read_postmaster_file

if TYPE_CHECKING:
    from tde.keystore import AgeFinding, KeyOwner, Keystore, KeyUse
    from tde.keystore.lifecycle.events import Place

_RELATIONS = (_core.CLASS_RELATION, _core.CLASS_TEMP_RELATION)


@dataclass(frozen=True)
class ClusterLook:
    """What a look at a data directory or a base backup has found.

    Attributes:
        directory: absolute.
        uses: what it does with each key.
        keymap: its map.
        pid: process id of the server that runs there; ``None`` without one.
        system_identifier: what its nodes share.
        linked: OIDs of the tablespaces that are there, with the built-in ones.
        unexplained: OIDs of those that must have a key and that its map does not know.
    """

    directory: Path
    uses: tuple[KeyUse, ...]
    keymap: KeyMap
    pid: int | None
    system_identifier: int
    linked: frozenset[int] = frozenset()
    unexplained: tuple[int, ...] = ()

    @property
    def place(self) -> Place:
        """What the key log calls it."""
        from tde.keystore.lifecycle.events import Place

        return Place(self.directory, str(self.system_identifier))

    def unlinked_of(self, owner: KeyOwner) -> list[int]:
        """Return the OIDs of tablespaces that have a key by the map and are not there.

        Whether somebody has dropped one, or only its link is away, the files do not say.
        """
        entries = self.keymap.entries.items()
        return [oid for oid, one in entries if one.owner == owner and oid not in self.linked]

    def uses_of(self, owner: KeyOwner) -> list[KeyUse]:
        """Return what it does with one key."""
        return [use for use in self.uses if use.owner == owner]


def look_at_cluster(
    directory: Path, keystore: Path, opened: Keystore | None = None, *, sizes: bool = False
) -> ClusterLook:
    """Look at what a data directory or a base backup does with keys; its server may run.

    Args:
        keystore: the keystore's directory.
        opened: the same, open. Without it the map is not authenticated, and WAL segments do not
            tell their keys.
        sizes: also measure what is encrypted with each key, which walks through all files.

    Raises:
        DataDirectoryError: it is not there, is no encrypted cluster, or may not be read.
        ClusterKeystoreError: it belongs to another keystore.
        ConversionError: it is only partly encrypted, or a rekey is unfinished.
        KeyMapError: its map is missing or was altered.
        KeystoreError: the keystore cannot be used.
        OSError: a file cannot be read.
    """
    from tde.keystore import keystore_uuid

    directory = directory.absolute()
    require_not_converting(directory)
    marker = require_marker(directory)
    if marker.keystore_uuid != keystore_uuid(keystore):
        raise ClusterKeystoreError(
            f"{directory} belongs to the keystore {marker.keystore_uuid.hex}, not to {keystore}",
            remedy=marker.hint,
        )
    keymap = known_map(directory, keystore, None if opened is None else map_key(opened))
    linked = frozenset({*BUILT_IN_TABLESPACES, *tablespaces_in(directory)})
    uses = [
        *_of_tablespaces(directory, keymap, linked),
        *_of_wal(directory, keystore, keymap, opened),
    ]
    if sizes:
        measured = _sizes(directory)
        uses = [
            use if use.oid is None else replace(use, bytes=measured.get(use.oid, 0)) for use in uses
        ]
    running = read_postmaster_file(directory)
    return ClusterLook(
        directory,
        tuple(uses),
        keymap,
        None if running is None else running.pid,
        system_identifier_of(directory),
        linked,
        tuple(
            oid
            for oid in sorted(linked)
            if keymap.find(oid) is None
            and (marker.scope is not Scope.TABLESPACES or names_its_key(directory, oid))
        ),
    )


def uses_by_map(directory: Path, keystore: Keystore) -> list[KeyUse]:
    """Return which keys a cluster encrypts new data with, by its map and its tablespaces alone.

    Raises:
        KeyMapError, KeystoreError, OSError: as :func:`look_at_cluster`.
    """
    keymap = known_map(directory, keystore.path, map_key(keystore))
    linked = {*BUILT_IN_TABLESPACES, *tablespaces_in(directory)}
    uses = [
        *_of_tablespaces(directory, keymap, linked),
        *_of_wal(directory, keystore.path, keymap, None),
    ]
    return [use for use in uses if use.new_data]


def key_ages(directory: Path, keystore: Path) -> list[AgeFinding]:
    """Return what is to be said of the ages of a cluster's keys, without its passphrase.

    Raises:
        TdeError, OSError: as :func:`look_at_cluster`.
    """
    from tde.keystore import age_findings, read_lives

    look = look_at_cluster(directory, keystore)
    return age_findings(read_lives(keystore, uses=look.uses))


def system_identifier_of(directory: Path) -> int:
    """Return the system identifier of a cluster, which begins pg_control.

    Raises:
        DataDirectoryError: it cannot be read.
    """
    try:
        content = read_beginning(directory, CONTROL_FILE, 8)
    except OSError as error:
        raise DataDirectoryError(
            f"{directory / CONTROL_FILE} cannot be read: {error.strerror}",
            remedy="Run this as the owner of the data directory, or as root.",
        ) from error
    return int.from_bytes(content, sys.byteorder)


def _of_tablespaces(directory: Path, keymap: KeyMap, linked: Iterable[int]) -> Iterator[KeyUse]:
    from tde.keystore import KeyUse

    for oid in sorted(linked):
        entry = keymap.find(oid)
        if entry is None:
            continue  # It was made without tde, and has no key.
        yield KeyUse(
            entry.owner,
            directory,
            tablespace_label(oid),
            new_data=True,
            is_derived=entry.source is KeySource.DERIVED,
            version=_version(keymap, entry),
            oid=oid,
        )


def tablespace_label(oid: int) -> str:
    """Return what a tablespace is called in the key log and in lists of keys."""
    name = BUILT_IN_TABLESPACES.get(oid)
    return f"tablespace {oid} ({name})" if name else f"tablespace {oid}"


def _version(keymap: KeyMap, entry: MapEntry) -> int:
    """Return which one of the keys of its tablespace it is; initdb's have one without an entry."""
    before = [one for one in keymap.history if one.oid == entry.oid and one != entry]
    return len(before) + 1 + (entry.oid in BUILT_IN_TABLESPACES and entry in keymap.history)


def _of_wal(
    directory: Path, keystore: Path, keymap: KeyMap, opened: Keystore | None
) -> Iterator[KeyUse]:
    """Yield the keys that the map names, and those that segments have."""
    from tde.keystore import KeyOwner, KeyUse
    from tde.keystore.store.reading import list_owners

    later = {owner.key_id: owner for owner in list_owners(keystore)}
    segments: Mapping[KeyOwner, list[Path]] = {}
    wal = directory / "pg_wal"
    if opened is not None and wal.is_dir():
        segments = segments_by_key(wal, opened)
    newest: UUID | None = keymap.wal_keys[-1] if keymap.wal_keys else None
    writes = KeyOwner.wal() if newest is None else later.get(newest)
    named = [owner for key_id in keymap.all_wal_keys if (owner := later.get(key_id)) is not None]
    for owner in dict.fromkeys([KeyOwner.wal(), *named, *segments]):
        found = segments.get(owner, [])
        yield KeyUse(
            owner,
            directory,
            "WAL",
            new_data=owner == writes,
            version=owner.oid or 1,
            bytes=sum(file.stat().st_size for file in found) if opened is not None else None,
            segments=tuple(file.name for file in found),
        )


def _sizes(directory: Path) -> dict[int, int]:
    """Return how many bytes the relation files of each tablespace have."""
    sizes: dict[int, int] = {}
    for place in ("base", "global", "pg_tblspc"):
        for parent, _, names in os.walk(directory / place, followlinks=True):
            prefix = os.path.relpath(parent, directory)
            for name in names:
                kind, oid, *_ = _core.parse_path(f"{prefix}/{name}")
                if kind not in _RELATIONS:
                    continue
                # What vanishes between two looks at it is no longer part of the cluster.
                with suppress(FileNotFoundError):
                    sizes[oid] = sizes.get(oid, 0) + (Path(parent) / name).stat().st_size
    return sizes
