"""Closing the keystore of a running server, and locking its tablespaces.

The keys stay in the server's memory, because recovery and the writing of pages need them at any
time. What is withheld is their use by sessions (c_ext/interpose/keys/withheld.h): a session that
runs SQL reads nothing from a locked tablespace, and while the keystore is closed only what is in
pg_default and pg_global.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tde.errors import ServerNotRunningError, TablespaceError
from tde.postgres.cluster.keys import require_open
from tde.postgres.cluster.messages import RunningServer, send_withheld, server_of
from tde.postgres.facts import BUILT_IN_TABLESPACES

if TYPE_CHECKING:
    from tde.keystore import Keystore
    from tde.postgres.cluster.cluster import Cluster


def close_for_sessions(cluster: Cluster, keystore: Keystore) -> int:
    """Close the keystore of a running server for its sessions; returns the server's process id.

    Sessions that read a table in a tablespace of their own choice fail from then on; all others go
    on, and so do recovery, replication and checkpoints.

    Raises:
        ServerNotRunningError: there is no server.
        KeystoreError: it has not done it.
    """
    return _tell(cluster, keystore, 0, give=False)


def open_for_sessions(cluster: Cluster, keystore: Keystore) -> int:
    """Open it again; the arguments and errors are those of :func:`close_for_sessions`."""
    return _tell(cluster, keystore, 0, give=True)


def lock_tablespace(cluster: Cluster, keystore: Keystore, oid: int) -> int:
    """Let no session use a tablespace, until it is unlocked or the server starts again.

    Raises:
        TablespaceError: it is one that every session needs.
        ServerNotRunningError: there is no server.
        KeystoreError: it has not done it.
    """
    if oid in BUILT_IN_TABLESPACES:
        raise TablespaceError(
            f"tablespace {BUILT_IN_TABLESPACES[oid]} cannot be locked: it has the catalogs that "
            "every session needs",
            remedy="Move the tables into a tablespace of their own, and lock that.",
        )
    return _tell(cluster, keystore, oid, give=False)


def unlock_tablespace(cluster: Cluster, keystore: Keystore, oid: int) -> int:
    """Let sessions use it again; the arguments and errors are those of :func:`lock_tablespace`."""
    return _tell(cluster, keystore, oid, give=True)


def _tell(cluster: Cluster, keystore: Keystore, oid: int, *, give: bool) -> int:
    require_open(keystore)
    server = _server(cluster)
    details = {"cluster": str(cluster.data_directory)}
    if oid == 0:
        event = "open for sessions" if give else "close for sessions"
    else:
        event = "unlock tablespace" if give else "lock tablespace"
        details["tablespace"] = str(oid)
    keystore.log_what_is_not_stored(event, **details)
    if not send_withheld(keystore, server, oid, give=give):
        raise ServerNotRunningError(f"the server in {cluster.data_directory} has ended meanwhile")
    return server.pid


def _server(cluster: Cluster) -> RunningServer:
    server = server_of(cluster.data_directory)
    if server is None:
        raise ServerNotRunningError(f"no server is running in {cluster.data_directory}")
    return server
