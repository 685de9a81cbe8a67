"""Whether all that may need a key is looked at: running servers, and recovery still to come.

A server that starts replays WAL from its last checkpoint on. Where that has the life of a
tablespace, the key is needed although the tablespace is gone: without it recovery ends, and with it
the whole cluster. What a map and a directory show is the end of that life, so they do not tell.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

from tde.errors import ClusterKeystoreError, TdeError
from tde.keystore.store.record import KeyOwner, OwnerKind
from tde.postgres.cluster.messages import servers_with_keys_of
from tde.postgres.server.control import read_control_data
from tde.postgres.server.os_user import server_os_user
from tde.postgres.server.published import read_published_status

if TYPE_CHECKING:
    from tde.keystore import Keystore

# Of a data directory whose next start begins with recovery from an archive or from another server.
_RECOVERS = ("backup_label", "recovery.signal", "standby.signal")
_SHUT_DOWN = "shut down"


def require_known_servers(
    keystore: Keystore, clusters: Collection[Path], *, may_be_none: bool
) -> None:
    """Refuse when a server uses the keystore whose cluster is not looked at, or none is named.

    Programs of ``tde pg install-bin`` that read auto-open.key write nothing to the key log, so it
    does not know theirs.

    Args:
        clusters: the data directories that are looked at.
        may_be_none: somebody says that the keystore serves no cluster.

    Raises:
        ClusterKeystoreError: there is one; or there is no cluster to look at.
    """
    if not clusters and not may_be_none:
        raise ClusterKeystoreError(
            f"no cluster of the keystore {keystore.path} is known, so nothing tells whether it "
            "needs the key",
            remedy="Name every one, standbys and stopped ones too: -D DIR. If there is none any "
            "more: --no-cluster.",
        )
    looked_at = {(status.st_dev, status.st_ino) for status in map(Path.stat, clusters)}
    for server in servers_with_keys_of(keystore.uuid, keystore.path):
        status = read_published_status(server.pid)
        if status is not None and status.directory not in looked_at:
            raise ClusterKeystoreError(
                f"the server with process id {server.pid} uses the keystore {keystore.path}, and "
                "its cluster is not among those that are looked at",
                remedy="Name its data directory as well: -D DIR.",
            )


def require_no_recovery(directory: Path, owner: KeyOwner) -> None:
    """Refuse the key of a tablespace whose life a stopped cluster may still replay.

    Raises:
        ClusterKeystoreError: it may, or that cannot be told.
    """
    if owner.kind is not OwnerKind.NAMED:
        return  # Segments tell which key of WAL they have.
    for name in _RECOVERS:
        if (directory / name).exists():
            raise _recovers(directory, owner, f"it has {name}")
    state = _state_of(directory, owner)
    if state != _SHUT_DOWN:
        raise _recovers(directory, owner, f'its state is "{state}"')


def _state_of(directory: Path, owner: KeyOwner) -> str:
    from tde.postgres.cluster.cluster import Cluster

    user = server_os_user(directory)
    try:
        binaries = Cluster(directory, os_user=user).binaries
        return read_control_data(directory, binaries, user).state
    except (TdeError, OSError) as error:
        raise _recovers(directory, owner, f"its state cannot be told: {error}") from error


def _recovers(directory: Path, owner: KeyOwner, why: str) -> ClusterKeystoreError:
    return ClusterKeystoreError(
        f"the key {owner.file_name} may be needed: the next start of {directory} begins with "
        f"recovery ({why}), which may come by the life of the tablespace",
        remedy="Start it and stop it cleanly, then repeat the command. Promote a standby, or make "
        "it anew from a base backup that was taken after the tablespace was dropped.",
    )
