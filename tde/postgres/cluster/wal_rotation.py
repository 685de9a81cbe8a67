"""Another key for WAL, from a later segment on, also while the server runs.

In this order, each step durable before the next: the key is in the keystore, the key map names it,
the server is told. A server that is started in between begins with it. What was written before
stays as it is, and each segment tells its key by itself (c_ext/interpose/keys/wal.h).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import UUID

from tde.algorithms import Algorithm
from tde.keystore import Keystore
from tde.keystore.lifecycle.events import activate_keys, deactivate_keys
from tde.postgres.cluster.key_log import WAL, place_of
from tde.postgres.cluster.keymap import KeySource, MapEntry, append_entry, map_key, read_map
from tde.postgres.cluster.keys import require_open
from tde.postgres.cluster.landed_keys import ensure_map
from tde.postgres.cluster.lock import cluster_lock
from tde.postgres.cluster.messages import send_wal_key, server_of

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


def rotate_wal_key(cluster: Cluster, keystore: Keystore, algorithm: Algorithm) -> WalRotation:
    """Give the WAL of a cluster another key.

    Raises:
        KeyMapError: the key map cannot be used.
        KeystoreError: no key can be made, or the running server has not taken it.
        OSError: the key map cannot be written.
    """
    require_open(keystore)
    directory = cluster.data_directory
    # Nobody starts the server between the look at it and the message.
    with cluster_lock(directory):
        server = server_of(directory)
        if server is None:
            ensure_map(directory, keystore, cluster.os_user)  # As its next start would.
        # Refuses before there is a key that nothing uses.
        before = read_map(directory, keystore.uuid, map_key(keystore)).wal_keys
        owner = keystore.create_wal_key(algorithm)
        assert owner.key_id is not None  # A later key of WAL has one.
        _tell(keystore, before[-1] if before else None, owner, directory)
        entry = MapEntry(0, KeySource.WAL, owner.key_id)
        append_entry(directory, entry, keystore, cluster.os_user)
        if server is None or not send_wal_key(keystore, server, owner.key_id):
            return WalRotation(owner, algorithm, None)
        told = server_of(directory)
    first = "" if told is None else told.keys.wal_key_from
    return WalRotation(owner, algorithm, server.pid, first)


def _tell(keystore: Keystore, before: UUID | None, owner: KeyOwner, directory: Path) -> None:
    """Tell the key log that one key of WAL takes the place of another.

    Args:
        before: the id of that one; ``None`` for the first key.
    """
    from tde.keystore import KeyOwner
    from tde.keystore.store.reading import list_owners

    replaced = [one for one in list_owners(keystore.path) if before and one.key_id == before]
    reasons = dict.fromkeys(replaced or [KeyOwner.wal()], "WAL was rotated")
    place = place_of(directory)
    activate_keys(keystore, {owner: WAL}, place)
    deactivate_keys(keystore, reasons, place)
