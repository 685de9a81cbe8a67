"""The keys of a cluster: the records that its keystore must hold."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import UUID

from tde.algorithms import Algorithm
from tde.errors import (
    ClusterKeystoreError,
    KeyMapError,
    KeystoreClosedError,
    KeystoreError,
    KeystoreExistsError,
    PlaintextEntryError,
)
from tde.postgres.cluster.keymap import KEYMAP_FILE, MAP_SOURCE, KeyMap, KeySource, map_key
from tde.postgres.cluster.landed_keys import known_map
from tde.postgres.cluster.links import names_its_key, restored_tablespaces, tablespace_oids
from tde.postgres.cluster.marker import read_marker
from tde.postgres.cluster.scope import Scope
from tde.postgres.facts import BUILT_IN_TABLESPACES

if TYPE_CHECKING:
    from tde.keystore import KeyOwner, Keystore

_log = logging.getLogger(__name__)


def require_unused_keystore(keystore: Path) -> None:
    """Refuse a keystore that serves a cluster already.

    Two clusters with the same keys would encrypt different pages under the same identity.

    Raises:
        ClusterKeystoreError: it has keys.
        KeystoreError: it cannot be inspected.
    """
    from tde.keystore import inspect_keystore

    if inspect_keystore(keystore).keys:
        raise _already_used(keystore)


def create_initial_keys(
    keystore: Keystore, scope: Scope, algorithm: Algorithm
) -> dict[Path, bytes]:
    """Write the key records of a new cluster into a keystore that has none.

    Returns:
        What was written, for :meth:`~tde.keystore.Keystore.discard_records`: a failed creation
        may remove its own records and never those of somebody who was faster.

    Raises:
        ClusterKeystoreError: it has keys, perhaps since a moment ago.
        KeystoreError: the keystore was not opened by its passphrase, or a record cannot be written;
            those already written are removed again.
    """
    from tde.keystore import KeyOwner

    require_open(keystore)
    built_in = algorithm if scope is Scope.CLUSTER else None
    wanted: dict[KeyOwner, Algorithm | None] = {KeyOwner.wal(): algorithm}
    if built_in is not None:
        # Whatever CREATE TABLESPACE makes, on this server or a standby, has a key at once.
        wanted[KeyOwner.other_tablespaces()] = built_in
    wanted.update({KeyOwner.tablespace(oid): built_in for oid in BUILT_IN_TABLESPACES})
    try:
        return keystore.create_first_keys(wanted)
    except KeystoreExistsError as error:
        raise _already_used(keystore.path) from error


def require_cluster_keys(keystore: Keystore, data_directory: Path) -> None:
    """Check, before a start, that the keys of the cluster are there and can be unwrapped.

    A damaged record of a tablespace that was dropped is logged as a warning: it protects
    nothing any more, so it must not keep the cluster from starting.

    Raises:
        ClusterKeystoreError: a record that the cluster needs is missing.
        KeyMapError: the key map is missing, cannot be used, or does not know a tablespace.
        KeystoreError: a record is damaged or belongs to another keystore.
    """
    from tde.keystore import KeyOwner
    from tde.keystore.store.reading import list_owners

    require_open(keystore)
    owners = list_owners(keystore.path)
    names = {KeyOwner.wal(): "the WAL"}
    marker = read_marker(data_directory)
    if marker is not None and marker.scope is Scope.CLUSTER:
        names[KeyOwner.other_tablespaces()] = "tablespaces without a key of their own"
    _require_records(keystore.path, names, owners)
    # The codes of the map come from the key of WAL, so that is looked for first.
    keymap = known_map(data_directory, keystore.path, map_key(keystore))
    built_in: dict[KeyOwner, str] = {}
    for oid, name in BUILT_IN_TABLESPACES.items():
        entry = keymap.find(oid)
        assert entry is not None  # Those have one without an entry of the map, too.
        rekeyed = entry.source is KeySource.REKEYED
        built_in[entry.owner] = f"{name}: {entry.owner.file_name} is missing" if rekeyed else name
    _require_records(keystore.path, built_in, owners)
    names.update(built_in)
    in_use = {*names, KeyOwner.other_tablespaces()}
    in_use.update(_owners_in_use(data_directory, keystore.path, keymap, owners))
    in_use.update(_later_wal_owners(keystore.path, keymap, owners))
    for owner in owners:
        try:
            _authenticate(keystore, owner)
        except KeystoreError as error:
            if owner in in_use:
                raise
            # A standby may be about to replay the creation of its tablespace.
            _log.warning("%s; no tablespace has this key yet. %s", error, error.remedy)


def _require_records(
    keystore: Path, names: Mapping[KeyOwner, str], present: Collection[KeyOwner]
) -> None:
    from tde.keystore.store.remedies import bring_key

    for owner, name in names.items():
        if owner not in present:
            raise ClusterKeystoreError(
                f"the keystore {keystore} has no key for {name}",
                remedy=f"Without it the data cannot be decrypted. {bring_key(keystore)}",
            )


def _owners_in_use(
    data_directory: Path, keystore: Path, keymap: KeyMap, present: Collection[KeyOwner]
) -> Iterator[KeyOwner]:
    """Yield whose keys the tablespaces of the cluster have, and check that these are there."""
    restored = restored_tablespaces(data_directory)
    for oid in sorted({*tablespace_oids(data_directory), *restored}):
        entry = keymap.find(oid)
        if entry is None:
            _require_explained(data_directory, oid, is_in_backup=oid in restored)
        elif entry.owner not in present:
            raise ClusterKeystoreError(
                f"the key of tablespace {oid} is missing: there is no key file "
                f"{keystore / 'keys' / entry.owner.file_name}",
                remedy=_bring_key(keystore, entry.key_id),
            )
        else:
            yield entry.owner


def _later_wal_owners(
    keystore: Path, keymap: KeyMap, present: Collection[KeyOwner]
) -> Iterator[KeyOwner]:
    """Yield the keys that the WAL in the cluster was written with, but for the first one.

    WAL that nobody can read looks like the end of WAL, so none may be missing.
    """
    owners = {owner.key_id: owner for owner in present}
    for key_id in keymap.all_wal_keys:
        if key_id not in owners:
            raise ClusterKeystoreError(
                f"a key of the WAL is missing: there is no key file {keystore}/keys/wal.*."
                f"{key_id.hex}.key",
                remedy=_bring_key(keystore, key_id),
            )
        yield owners[key_id]


def _bring_key(keystore: Path, key_id: UUID | None) -> str:
    """Return how a missing key comes back; what was destroyed is not in newer backups."""
    from tde.keystore.lifecycle import events
    from tde.keystore.log.reading import read_entries_of
    from tde.keystore.store.remedies import bring_key

    if key_id is not None:
        told = read_entries_of(keystore, events.DESTROY, events.KEEP, events.CREATE, author=None)
        for name, entry in events.destroyed_keys(told).items():
            if key_id.hex in name:
                return (
                    f"It was destroyed on {entry.time:%Y-%m-%d}, when nothing was known of this "
                    f"cluster's need (entry {entry.number} of the key log). Only a backup of the "
                    f"keystore from before has it: tde keystore restore BACKUP --keystore ANOTHER"
                )
    return bring_key(keystore)


def _require_explained(data_directory: Path, oid: int, *, is_in_backup: bool) -> None:
    """Refuse a tablespace that the map does not know, unless there is a reason for that.

    Args:
        is_in_backup: it was there when a base backup began.
    """
    # Recovery of a backup repeats CREATE TABLESPACE, and so decides, if the map was copied first.
    if (data_directory / "backup_label").exists() and not is_in_backup:
        return
    marker = read_marker(data_directory)
    had_entry = is_in_backup or names_its_key(data_directory, oid)
    if marker is not None and marker.scope is Scope.TABLESPACES and not had_entry:
        _log.warning("tablespace %d was made without tde and has no key", oid)
        return
    raise KeyMapError(
        f"{data_directory / KEYMAP_FILE} does not say what key tablespace {oid} has",
        remedy=f"It is older than the tablespace: restore {KEYMAP_FILE} from {MAP_SOURCE}.",
    )


def _authenticate(keystore: Keystore, owner: KeyOwner) -> None:
    """Unwrap a key, which proves that its record is authentic; the server would say ENOKEY."""
    from tde.keystore.crypto.secret import wipe

    try:
        wipe(keystore.unwrap_key(owner))
    except PlaintextEntryError:
        return


def require_open(keystore: Keystore) -> None:
    """Refuse a closed keystore.

    Raises:
        KeystoreClosedError: its master key is not in memory.
    """
    if not keystore.is_open:
        raise KeystoreClosedError


def _already_used(keystore: Path) -> ClusterKeystoreError:
    return ClusterKeystoreError(
        f"the keystore {keystore} already has keys: it serves another cluster",
        remedy="Create a keystore of its own for each cluster: tde keystore create",
    )
