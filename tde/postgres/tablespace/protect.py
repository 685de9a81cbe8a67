"""Keys of tablespaces that exist already, and the copies that standbys need of new keys."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import psycopg2

from tde.algorithms import Algorithm
from tde.errors import TablespaceError
from tde.postgres.tablespace.tablespaces import Tablespace, create_own_key, require_running_keystore

if TYPE_CHECKING:
    from tde.keystore import Keystore
    from tde.postgres.cluster.cluster import Cluster


def protect_tablespace(
    cluster: Cluster,
    keystore: Keystore,
    name: str,
    algorithm: Algorithm,
    *,
    connection: Mapping[str, object] | None = None,
) -> Tablespace:
    """Write a key for an empty tablespace that plain SQL made, while the server runs.

    In scope ``CLUSTER`` it has a derived key already; this gives it one of its own. In scope
    ``TABLESPACES`` the server refuses to open files there until it has one.

    Args:
        connection: arguments for ``psycopg2.connect`` that replace the cluster's own.

    Raises:
        TablespaceError: there is no such tablespace, or it has files.
        KeystoreExistsError: it has a key record.
        ClusterKeystoreError: the keystore is not the cluster's.
        ServerNotRunningError: there is no server.
    """
    parameters = {**cluster.connection_parameters(), **(connection or {})}
    require_running_keystore(cluster, keystore)
    rows = _query(
        parameters,
        "SELECT oid, pg_tablespace_location(oid) FROM pg_tablespace WHERE spcname = %s",
        (name,),
    )
    if not rows:
        raise TablespaceError(
            f'there is no tablespace "{name}"', remedy="See tde tablespace list for the names."
        )
    oid, location = rows[0]
    create_own_key(keystore, oid, name, algorithm, cluster.data_directory / "pg_tblspc" / str(oid))
    return Tablespace(name, oid, location, algorithm.label)


def standby_notice(
    cluster: Cluster,
    keystore: Keystore,
    tablespace: Tablespace,
    *,
    connection: Mapping[str, object] | None = None,
) -> str:
    """Return what has to be done on the standbys about a new key; empty when none is connected.

    A standby replays CREATE TABLESPACE, but key records do not travel in the WAL: without the
    record it stops at the first page for the tablespace.
    """
    from tde.keystore import KeyOwner

    parameters = {**cluster.connection_parameters(), **(connection or {})}
    rows = _query(
        parameters,
        "SELECT DISTINCT coalesce(nullif(application_name, ''), 'unnamed') "
        "|| coalesce(' at ' || client_addr, ' on this machine') FROM pg_stat_replication",
    )
    if not rows:
        return ""
    file = keystore.path / "keys" / KeyOwner.tablespace(tablespace.oid).file_name
    return (
        f"Copy {file} into the keystore of every standby with a keystore of its own, before the "
        f'first use of the tablespace "{tablespace.name}". '
        f"Connected: {', '.join(sorted(row[0] for row in rows))}."
    )


def _query(
    parameters: Mapping[str, Any], statement: str, arguments: tuple[object, ...] = ()
) -> list[tuple[Any, ...]]:
    try:
        connection = psycopg2.connect(**parameters)
        try:
            with connection.cursor() as cursor:
                cursor.execute(statement, arguments or None)
                rows: list[tuple[Any, ...]] = cursor.fetchall()
                return rows
        finally:
            connection.close()
    except psycopg2.Error as error:
        raise TablespaceError(f"cannot look at the tablespaces: {str(error).strip()}") from error
