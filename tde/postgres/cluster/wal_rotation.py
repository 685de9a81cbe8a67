"""Another key for WAL, from a later segment on, also while the server runs.

In this order, each step durable before the next: the key is in the keystore, the key map names it,
the server is told. A server that is started in between begins with it. What was written before
stays as it is, and each segment tells its key by itself (c_ext/interpose/keys/wal.h).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import UUID

from tde.algorithms import Algorithm
from tde.errors import ClusterBusyError, KeyMissingError
from tde.keystore import Keystore
from tde.keystore.lifecycle.events import activate_keys, deactivate_keys
from tde.postgres.cluster.key_log import WAL, place_of
from tde.postgres.cluster.keymap import KeySource, MapEntry, append_entry, map_key, read_map
from tde.postgres.cluster.keys import require_open
from tde.postgres.cluster.landed_keys import ensure_map
from tde.postgres.cluster.lock import cluster_lock
from tde.postgres.cluster.messages import send_wal_key, server_of
from tde.postgres.cluster.standbys import asked_standbys

if TYPE_CHECKING:
    from tde.keystore import KeyOwner
    from tde.postgres.cluster.cluster import Cluster


@dataclass(frozen=True)
class WalRotation:
    """What has become of a rotation.

    Attributes:
        owner: of the new key.
        server: process id of the server that writes with it; ``None`` when none runs.
        first_segment: the end of the name of the first segment that gets it, without the timeline.
    """

    owner: KeyOwner
    algorithm: Algorithm
    server: int | None
    first_segment: str = ""


def rotate_wal_key(
    cluster: Cluster,
    keystore: Keystore,
    algorithm: Algorithm,
    *,
    key_id: UUID | None = None,
    wait: bool = True,
    connection: Mapping[str, object] | None = None,
) -> WalRotation:
    """Give the WAL of a cluster another key.

    Args:
        key_id: of a key that an earlier call has made and not used; by default a new key is made.
        wait: whether every connected standby must have the key first: it may read the archive.
        connection: arguments for ``psycopg2.connect`` that replace the cluster's own.

    Raises:
        KeyMapError: the key map cannot be used.
        KeystoreError: no key can be made or found, or the running server has not taken it.
        ReplicationError: a standby lacks the key, which is made and not used yet.
        ClusterBusyError: a server was started meanwhile.
        OSError: the key map cannot be written.
    """
    require_open(keystore)
    directory = cluster.data_directory
    runs = server_of(directory) is not None
    asking = asked_standbys(cluster, keystore.path, connection) if runs and wait else nullcontext()
    with asking as standbys:
        if not runs:
            ensure_map(directory, keystore, cluster.os_user)  # As its next start would.
        # Refuses before there is a key that nothing uses.
        used = read_map(directory, keystore.uuid, map_key(keystore)).all_wal_keys
        owner = _key_to_use(cluster, keystore, algorithm, key_id, used)
        if standbys is not None:
            standbys.require(owner, is_new=key_id is None)
        return _rotate(cluster, keystore, owner, runs=runs)


def _rotate(cluster: Cluster, keystore: Keystore, owner: KeyOwner, *, runs: bool) -> WalRotation:
    directory = cluster.data_directory
    assert owner.key_id is not None  # A later key of WAL has one.
    algorithm = _algorithm_of(keystore, owner)
    # Nobody starts the server between the look at it and the message.
    with cluster_lock(directory):
        server = server_of(directory)
        if server is not None and not runs:
            raise ClusterBusyError(
                f"a server was started in {directory} meanwhile, whose standbys were not asked",
                remedy=f"Repeat the command with --key {owner.key_id.hex}",
            )
        before = read_map(directory, keystore.uuid, map_key(keystore)).wal_keys
        _tell(keystore, before[-1] if before else None, directory)
        entry = MapEntry(0, KeySource.WAL, owner.key_id)
        append_entry(directory, entry, keystore, cluster.os_user)
        if server is None or not send_wal_key(keystore, server, owner.key_id):
            return WalRotation(owner, algorithm, None)
        told = server_of(directory)
    first = "" if told is None else told.keys.wal_key_from
    return WalRotation(owner, algorithm, server.pid, first)


def _key_to_use(
    cluster: Cluster,
    keystore: Keystore,
    algorithm: Algorithm,
    key_id: UUID | None,
    used: Collection[UUID],
) -> KeyOwner:
    """Return whose the new key is: it is made, or was made before and is not used yet."""
    from tde.keystore.store.reading import list_owners

    if key_id is None:
        owner = keystore.create_wal_key(algorithm)
        # pg_receivewal and pg_basebackup write with the newest key from now on, whatever the
        # server does, so it must not be taken for one that nothing was encrypted with.
        activate_keys(keystore, {owner: WAL}, place_of(cluster.data_directory))
        return owner
    # Of all keys with an id only those of WAL have a number too.
    made = [one for one in list_owners(keystore.path) if one.oid and one.key_id == key_id]
    if not made or key_id in used:
        raise KeyMissingError(
            f"the keystore {keystore.path} has no key {key_id.hex} for WAL that is not used yet",
            remedy="Leave out --key: a new one is made.",
        )
    return made[0]


def _algorithm_of(keystore: Keystore, owner: KeyOwner) -> Algorithm:
    from tde.keystore.crypto.secret import wipe

    found = keystore.key_of(owner)
    assert found is not None  # Only tablespaces can be in plain text.
    algorithm, key = found
    wipe(key)
    return algorithm


def _tell(keystore: Keystore, before: UUID | None, directory: Path) -> None:
    """Tell the key log that another key of WAL takes the place of one.

    Args:
        before: the id of that one; ``None`` for the first key.
    """
    from tde.keystore import KeyOwner
    from tde.keystore.store.reading import list_owners

    replaced = [one for one in list_owners(keystore.path) if before and one.key_id == before]
    reasons = dict.fromkeys(replaced or [KeyOwner.wal()], "WAL was rotated")
    deactivate_keys(keystore, reasons, place_of(directory))
