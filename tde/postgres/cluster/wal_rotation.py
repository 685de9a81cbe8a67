"""Another key for WAL, from a later segment on, also while the server runs.

In this order, each step durable before the next: the key is in the keystore, the key map names it,
the server is told. A server that is started in between begins with it. What was written before
stays as it is, and each segment tells its key by itself (c_ext/interpose/keys/wal.h).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tde.algorithms import Algorithm
from tde.errors import KeystoreError, TdeError
from tde.keystore import Keystore
from tde.postgres.cluster.keymap import KeySource, MapEntry, append_entry, map_key, read_map
from tde.postgres.cluster.keys import require_open
from tde.postgres.cluster.lock import cluster_lock
from tde.postgres.cluster.messages import RunningServer, send_wal_key
from tde.postgres.server.pidfile import read_postmaster_file
from tde.postgres.server.published import read_published_status

if TYPE_CHECKING:
    from pathlib import Path

    from tde.keystore import KeyOwner
    from tde.postgres.cluster.cluster import Cluster


@dataclass(frozen=True)
class WalRotation:
    """What has become of a rotation.

    Attributes:
        owner: of the new key.
        server: process id of the server that writes with it; ``None`` when none runs.
    """

    owner: KeyOwner
    algorithm: Algorithm
    server: int | None


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
        # Refuses before there is a key that nothing uses.
        read_map(directory, keystore.uuid, map_key(keystore))
        server = _running_server(directory)
        owner = keystore.create_wal_key(algorithm)
        entry = MapEntry(0, KeySource.WAL, owner.key_id)
        append_entry(directory, entry, keystore, cluster.os_user)
        told = server is not None and _tell(keystore, server, owner)
    return WalRotation(owner, algorithm, server.pid if server is not None and told else None)


def _tell(keystore: Keystore, server: RunningServer, owner: KeyOwner) -> bool:
    if owner.key_id is None:
        raise TypeError(owner)
    return send_wal_key(keystore, server, owner.key_id)


def _running_server(directory: Path) -> RunningServer | None:
    """Return the server of a data directory when it can be told.

    Raises:
        KeystoreError: it runs, and cannot.
    """
    running = read_postmaster_file(directory)
    if running is None:
        return None
    status = read_published_status(running.pid)
    keys = None if status is None else status.keys
    if keys is None or keys.wal_key is None:
        raise _cannot_be_told(
            running.pid, "was started by an earlier release of tde, or not with its keys"
        )
    if not any(keys.exchange_key):
        raise _cannot_be_told(running.pid, "has an OpenSSL without X25519")
    return RunningServer(running.pid, keys)


def _cannot_be_told(pid: int, why: str) -> TdeError:
    return KeystoreError(
        f"the server with process id {pid} {why}, so it cannot be given a WAL key while it runs",
        remedy="Stop it, repeat the command, and start it with tde pg start.",
    )
