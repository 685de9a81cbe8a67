"""Creating tablespaces with a key, and listing what protects each tablespace."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg2
from psycopg2 import sql

from tde.algorithms import Algorithm
from tde.errors import ClusterKeystoreError, TablespaceError
from tde.ownership import adopt_directory, create_directory, create_parents
from tde.postgres.cluster.marker import Marker, require_matching_keystore
from tde.postgres.cluster.protection import (
    NO_KEY,
    PLAINTEXT,
    other_protection,
    tablespace_protections,
)
from tde.postgres.cluster.scope import Scope
from tde.postgres.server.os_user import OsUser, require_reachable

if TYPE_CHECKING:
    from tde.keystore import Keystore
    from tde.postgres.cluster.cluster import Cluster

# From choosing a key to creating the file takes a backend microseconds.
_SETTLE_SECONDS = 0.2


@dataclass(frozen=True)
class Tablespace:
    """A tablespace and how its files are stored.

    Attributes:
        location: directory, or empty for the built-in ones.
        protection: label of the algorithm, ``plaintext``, or ``NO KEY`` when the keystore has
            no record for it or for other tablespaces, in which case the server refuses to open
            its files.
    """

    name: str
    oid: int
    location: str
    protection: str


def create_tablespace(
    cluster: Cluster,
    keystore: Keystore,
    name: str,
    location: Path,
    algorithm: Algorithm | None,
    *,
    connection: Mapping[str, object] | None = None,
) -> Tablespace:
    """Create a tablespace and its key while the server runs; no restart is needed.

    The key is written after CREATE TABLESPACE because its record is bound to the OID that the
    server chooses. Until then the server refuses to open files there or, in scope ``CLUSTER``,
    uses the key derived from that of other tablespaces, so nothing can be written in plain text.
    A tablespace whose key cannot be written is dropped again.

    Args:
        location: a directory for the data, empty or not there yet.
        algorithm: ``None`` for a tablespace in plain text, possible in scope ``TABLESPACES``.
        connection: arguments for ``psycopg2.connect`` that replace the cluster's own.

    Raises:
        TablespaceError: the server refused it, or the location cannot be used.
        ClusterKeystoreError: the keystore is not the cluster's.
        ServerNotRunningError: there is no server.
    """
    parameters: dict[str, Any] = {**cluster.connection_parameters(), **(connection or {})}
    marker = require_running_keystore(cluster, keystore)
    if algorithm is None and marker.scope is not Scope.TABLESPACES:
        raise TablespaceError(
            f"the scope of the cluster {cluster.data_directory} is {marker.scope.value}: "
            "it has no tablespaces in plain text",
            remedy="Give the tablespace an algorithm: --aes 256",
        )
    location = location.absolute()
    created = _prepare_location(location, cluster.os_user)
    try:
        links = cluster.data_directory / "pg_tblspc"
        oid = _create_with_key(parameters, keystore, name, location, algorithm, links)
    except BaseException:
        if created:
            location.rmdir()
        raise
    return Tablespace(name, oid, str(location), algorithm.label if algorithm else PLAINTEXT)


def list_tablespaces(
    cluster: Cluster, keystore_path: Path | None, *, connection: Mapping[str, object] | None = None
) -> list[Tablespace]:
    """Return every tablespace of a running cluster, sorted by OID.

    Args:
        keystore_path: directory of the keystore, which is inspected and not opened; by default
            the one that the cluster was created with. Not needed for a plain cluster.

    Raises:
        ServerNotRunningError: there is no server.
        TablespaceError: the query failed.
        KeystoreError: the keystore cannot be inspected.
    """
    from tde.keystore import inspect_keystore

    parameters: dict[str, Any] = {**cluster.connection_parameters(), **(connection or {})}
    marker = cluster.marker
    protections: dict[int, str] = {}
    missing = PLAINTEXT
    if marker is not None:
        status = inspect_keystore(keystore_path or marker.keystore)
        require_matching_keystore(cluster.data_directory, marker, status.uuid)
        protections = tablespace_protections(status.keys)
        missing = other_protection(status.keys) or NO_KEY
    query = "SELECT spcname, oid, pg_tablespace_location(oid) FROM pg_tablespace ORDER BY oid"
    try:
        connected = psycopg2.connect(**parameters)
        try:
            with connected.cursor() as cursor:
                cursor.execute(query)
                rows: list[tuple[str, int, str]] = cursor.fetchall()
        finally:
            connected.close()
    except psycopg2.Error as error:
        raise TablespaceError(f"cannot list the tablespaces: {str(error).strip()}") from error
    return [
        Tablespace(name, oid, location, protections.get(oid, missing))
        for name, oid, location in rows
    ]


def create_own_key(
    keystore: Keystore, oid: int, name: str, algorithm: Algorithm, directory: Path
) -> None:
    """Write the key record of an empty tablespace, which decides for every file opened later.

    Args:
        directory: the tablespace's entry in pg_tblspc.

    Raises:
        TablespaceError: it has files, which are encrypted with the key derived for it or, in
            scope ``TABLESPACES``, cannot be; the record is removed again.
        KeystoreExistsError: it has a key record.
    """
    from tde.keystore import KeyOwner

    _require_no_file(directory, name)
    written = keystore.create_key(KeyOwner.tablespace(oid), algorithm)
    try:
        # A backend that chose the derived key just before the record appeared has created its
        # file by now; its file and the record cannot both stay.
        time.sleep(_SETTLE_SECONDS)
        _require_no_file(directory, name)
    except BaseException:
        keystore.discard_records(written)
        raise


def _require_no_file(directory: Path, name: str) -> None:
    try:
        files = (path for path in directory.resolve().rglob("*") if not path.is_dir())
        file = next(files, None)
    except OSError as error:
        raise TablespaceError(f"cannot look at {directory}: {error.strerror}") from error
    if file is not None:
        # With another key the server would decrypt what was never encrypted with it.
        raise TablespaceError(
            f'the tablespace "{name}" has files already: {file}',
            remedy="Create another tablespace with tde tablespace create and move the tables: "
            "ALTER TABLE ... SET TABLESPACE. After DROP TABLE, files go with the next CHECKPOINT.",
        )


def require_running_keystore(cluster: Cluster, keystore: Keystore) -> Marker:
    """Check that a running server reads its keys from this keystore; return its marker.

    Raises:
        ClusterKeystoreError: it reads them elsewhere, or the cluster is not encrypted.
    """
    marker = cluster.marker
    require_matching_keystore(cluster.data_directory, marker, keystore.uuid)
    assert marker is not None  # The check above refuses a keystore for a plain cluster.
    if marker.keystore.resolve() != keystore.path.resolve():
        # The server reads new keys from the directory that it was started with.
        raise ClusterKeystoreError(
            f"the server was started with the keystore at {marker.keystore}, not with the one "
            f"of the same UUID at {keystore.path}",
            remedy=f"Use --keystore {marker.keystore}"
            if marker.keystore.exists()
            else f"If the keystore has moved: tde pg restart --keystore {keystore.path}",
        )
    return marker


def _create_with_key(
    parameters: dict[str, Any],
    keystore: Keystore,
    name: str,
    location: Path,
    algorithm: Algorithm | None,
    links: Path,
) -> int:
    """Create the tablespace, write its key record, and return its OID."""
    statement = sql.SQL("CREATE TABLESPACE {} LOCATION {}").format(
        sql.Identifier(name), sql.Literal(str(location))
    )
    try:
        connection = psycopg2.connect(**parameters)
        try:
            # CREATE TABLESPACE cannot run inside a transaction block.
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(statement)
                return _write_key(cursor, keystore, name, algorithm, links)
        finally:
            connection.close()
    except psycopg2.Error as error:
        raise TablespaceError(
            f'the tablespace "{name}" was not created: {str(error).strip()}'
        ) from error


def _write_key(
    cursor: Any, keystore: Keystore, name: str, algorithm: Algorithm | None, links: Path
) -> int:
    """Write the key record of a new tablespace, or drop the tablespace again."""
    try:
        cursor.execute("SELECT oid FROM pg_tablespace WHERE spcname = %s", (name,))
        oid: int = cursor.fetchone()[0]
        if algorithm is None:
            keystore.create_plaintext_entry(oid)
        else:
            create_own_key(keystore, oid, name, algorithm, links / str(oid))
    except BaseException:
        cursor.execute(sql.SQL("DROP TABLESPACE {}").format(sql.Identifier(name)))
        raise
    return oid


def _prepare_location(location: Path, os_user: OsUser | None) -> bool:
    """Create the directory if it is missing, for the server's user; tell whether it was.

    Raises:
        TablespaceError: it exists and is not an empty directory.
        UnreachablePathError: the server's user cannot get there.
        UnsafeDirectoryError: it is another user's, or would be made where others could
            mislead root.
    """
    require_reachable(os_user, location, "the tablespace location")
    created = not location.exists()
    if not created and (not location.is_dir() or any(location.iterdir())):
        raise TablespaceError(
            f"the location {location} is not an empty directory",
            remedy="Name a directory that is empty or does not exist.",
        )
    owner = None if os_user is None else os_user.owner
    if created:
        create_parents(location, owner)
        create_directory(location, owner)
    else:
        adopt_directory(location, owner)
    return created
