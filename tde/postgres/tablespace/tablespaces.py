"""Creating tablespaces with a key, and listing what protects each tablespace."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

import psycopg2
from psycopg2 import sql

from tde.algorithms import Algorithm
from tde.errors import ClusterKeystoreError, KeyMissingError, TablespaceError
from tde.ownership import adopt_directory, create_directory, create_parents
from tde.postgres.cluster.key_log import place_of
from tde.postgres.cluster.landed_keys import known_map
from tde.postgres.cluster.marker import Marker, require_matching_keystore
from tde.postgres.cluster.protection import PLAINTEXT, Protections
from tde.postgres.cluster.questions import LET_CONNECT
from tde.postgres.cluster.scope import Scope
from tde.postgres.cluster.standbys import asked_standbys
from tde.postgres.server.os_user import OsUser, current_user_name, require_reachable
from tde.postgres.server.owned_files import sync_directory
from tde.postgres.server.peer import connect_as_peer

if TYPE_CHECKING:
    from tde.keystore import Keystore
    from tde.postgres.cluster.cluster import Cluster


@dataclass(frozen=True)
class Tablespace:
    """A tablespace and how its files are stored.

    Attributes:
        location: directory, or empty for the built-in ones.
        protection: label of the algorithm, ``plaintext``, or ``NO KEY`` when its key is not in the
            keystore, in which case the server refuses to open its files.
        key_file: the file in the keystore's directory ``keys`` that it depends on; ``None`` when
            nobody knows, and in a plain cluster.
    """

    name: str
    oid: int
    location: str
    protection: str
    key_file: str | None = None


@dataclass(frozen=True)
class PreparedKey:
    """A key for a tablespace to be.

    Attributes:
        key_id: what :func:`create_tablespace` takes.
        file: its record in the keystore, which standbys need first.
        location: the directory of the tablespace, the same on every node.
    """

    key_id: UUID
    file: Path
    location: Path


def prepare_key(
    cluster: Cluster, keystore: Keystore, location: Path, algorithm: Algorithm | None
) -> PreparedKey:
    """Write the key of a tablespace that is created later, so that standbys can get it first.

    Raises:
        TablespaceError: the location, or a tablespace in plain text in this scope, is not possible.
        ClusterKeystoreError: the keystore is not the cluster's.
        KeystoreError: the key cannot be written.
    """
    marker = require_running_keystore(cluster, keystore)
    require_possible_location(cluster, location)
    _require_possible(marker, cluster, algorithm)
    key_id = keystore.create_named_key(algorithm)
    return PreparedKey(key_id, _file_of(keystore, key_id), location_of(location, key_id))


def location_of(location: Path, key_id: UUID) -> Path:
    """Return the directory of a tablespace, whose name says to every node which key it has."""
    return location.absolute() / f"tde-{key_id.hex}"


def require_possible_location(cluster: Cluster, location: Path) -> None:
    """Refuse a location before a key is made for it, which would stay.

    Raises:
        TablespaceError: it is inside the data directory, or PostgreSQL cannot write it down.
    """
    try:
        str(location).encode()
    except UnicodeEncodeError as error:
        raise TablespaceError(
            f"the location {location} is not in UTF-8, in which PostgreSQL is told of it",
            remedy="Name a directory in UTF-8: a link to this one will do.",
        ) from error
    _require_outside(cluster, location)


@contextmanager
def made_location(cluster: Cluster, location: Path, key_id: UUID) -> Iterator[Path]:
    """Make the directory of a tablespace to be, as :func:`create_tablespace` does, and give it.

    When the body fails, what was made is removed again.

    Raises:
        TablespaceError: it cannot be used.
        UnreachablePathError, UnsafeDirectoryError: as there.
    """
    own = location_of(location, key_id)
    with _made_directories(location.absolute(), own, cluster.os_user):
        yield own


def create_tablespace(
    cluster: Cluster,
    keystore: Keystore,
    name: str,
    location: Path,
    algorithm: Algorithm | None,
    *,
    key_id: UUID | None = None,
    wait: bool = True,
    connection: Mapping[str, object] | None = None,
) -> Tablespace:
    """Create a tablespace and its key while the server runs; no restart is needed.

    The key is durable in the keystore first. The tablespace's own directory, which is made in
    ``location``, is named after the key; so the server, and every standby that replays CREATE
    TABLESPACE, knows the key before the first file, or refuses. Whatever fails afterwards, the
    key stays: it may have been used.

    Args:
        location: a directory, made if it is missing, in which the tablespace's own is made.
        algorithm: ``None`` for a tablespace in plain text, possible in scope ``TABLESPACES``.
        key_id: of :func:`prepare_key`; by default a new key is made.
        wait: whether every connected standby must have the key first.
        connection: arguments for ``psycopg2.connect`` that replace the cluster's own.

    Raises:
        TablespaceError: the server refused it, or the location cannot be used.
        ReplicationError: a standby lacks the key, which is made and not used yet.
        ClusterKeystoreError: the keystore is not the cluster's.
        KeystoreError: the key cannot be written, or the prepared one cannot be used.
        ServerNotRunningError: there is no server.
    """
    from tde.keystore import KeyOwner
    from tde.keystore.lifecycle.events import activate_keys

    parameters: dict[str, Any] = {**cluster.connection_parameters(), **(connection or {})}
    marker = require_running_keystore(cluster, keystore)
    require_possible_location(cluster, location)
    if key_id is not None:
        algorithm = _algorithm_of(keystore, key_id)
    _require_possible(marker, cluster, algorithm)
    _require_new_name(parameters, name)
    is_new = key_id is None
    asking = asked_standbys(cluster, keystore.path, connection) if wait else nullcontext()
    with asking as standbys:
        if key_id is None:
            key_id = keystore.create_named_key(algorithm)
        own = location_of(location, key_id)
        if standbys is not None:
            also = f"on other machines, as the server's user: mkdir -p {shlex.quote(str(own))}; "
            standbys.require(KeyOwner.named(key_id), is_new=is_new, also=also)
        if algorithm is not None:
            # Its OID is not known before, and whether it was used not after a lost connection.
            use = {KeyOwner.named(key_id): f'tablespace "{name}"'}
            activate_keys(keystore, use, place_of(cluster.data_directory))
        with _made_directories(location.absolute(), own, cluster.os_user):
            oid = _create(parameters, name, own)
    protection = PLAINTEXT if algorithm is None else algorithm.label
    return Tablespace(name, oid, str(own), protection, _file_of(keystore, key_id).name)


def databases_in(
    cluster: Cluster, oid: int, *, connection: Mapping[str, object] | None = None
) -> list[str]:
    """Return the databases of a running cluster whose catalogs are in a tablespace.

    Raises:
        ServerNotRunningError: there is no server.
        TablespaceError: the query failed.
    """
    parameters: dict[str, Any] = {**cluster.connection_parameters(), **(connection or {})}
    query = "SELECT datname FROM pg_catalog.pg_database WHERE dattablespace = %s ORDER BY datname"
    return [str(name) for (name,) in run_query(parameters, query, (oid,))]


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
        KeyMapError: the key map is missing or cannot be used.
        KeystoreError: the keystore cannot be inspected.
    """
    from tde.keystore import inspect_keystore

    parameters: dict[str, Any] = {**cluster.connection_parameters(), **(connection or {})}
    marker = cluster.marker
    query = "SELECT spcname, oid, pg_tablespace_location(oid) FROM pg_tablespace ORDER BY oid"
    rows: list[tuple[str, int, str]] = run_query(parameters, query)
    if marker is None:
        return [Tablespace(name, oid, location, PLAINTEXT) for name, oid, location in rows]
    path = keystore_path or marker.keystore
    status = inspect_keystore(path)
    require_matching_keystore(cluster.data_directory, marker, status.uuid)
    known = Protections(known_map(cluster.data_directory, path, None), status.keys)
    return [
        Tablespace(name, oid, location, known.of(oid), known.key_file(oid))
        for name, oid, location in rows
    ]


def run_query(
    parameters: Mapping[str, Any], statement: str, arguments: tuple[object, ...] = ()
) -> list[Any]:
    """Return the rows of a query about the cluster.

    Raises:
        TablespaceError: it failed.
    """
    try:
        with closing(connect(parameters)) as connection, connection.cursor() as cursor:
            cursor.execute(statement, arguments or None)
            return list(cursor.fetchall())
    except psycopg2.Error as error:
        raise TablespaceError(f"cannot look at the tablespaces: {str(error).strip()}") from error


def connect(parameters: Mapping[str, Any]) -> Any:
    """Return a connection to the cluster.

    Raises:
        TablespaceError: there is none, with what to do.
    """
    try:
        return connect_as_peer(parameters)
    except psycopg2.OperationalError as error:
        raise TablespaceError(
            f"cannot connect to the server: {str(error).strip()}",
            remedy=LET_CONNECT.format(current_user_name()),
        ) from error


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
    if not marker.has_map:
        raise ClusterKeystoreError(
            f"the server in {cluster.data_directory} was started by a release of tde that decided "
            "keys in another way",
            remedy="Restart it: tde pg restart",
        )
    return marker


def _require_possible(marker: Marker, cluster: Cluster, algorithm: Algorithm | None) -> None:
    if algorithm is None and marker.scope is not Scope.TABLESPACES:
        raise TablespaceError(
            f"the scope of the cluster {cluster.data_directory} is {marker.scope.value}: "
            "it has no tablespaces in plain text",
            remedy="Give the tablespace an algorithm: --aes 256",
        )


def _require_outside(cluster: Cluster, location: Path) -> None:
    if location.absolute().resolve().is_relative_to(cluster.data_directory.resolve()):
        raise TablespaceError(
            f"the location {location} is inside the data directory",
            remedy="Name a directory outside it: every base backup would copy it twice.",
        )


def _require_new_name(parameters: Mapping[str, Any], name: str) -> None:
    """Find out before a key is made, which would stay."""
    rows = run_query(parameters, "SELECT oid FROM pg_tablespace WHERE spcname = %s", (name,))
    if rows:
        raise TablespaceError(
            f'the tablespace "{name}" exists already', remedy="See tde tablespace list."
        )


def _algorithm_of(keystore: Keystore, key_id: UUID) -> Algorithm | None:
    from tde.keystore import KeyOwner
    from tde.keystore.crypto.secret import wipe

    try:
        found = keystore.key_of(KeyOwner.named(key_id))
    except KeyMissingError as error:
        raise KeyMissingError(
            str(error), remedy="Prepare a key on this machine: tde tablespace create --prepare"
        ) from error
    if found is None:
        return None
    algorithm, key = found
    wipe(key)
    return algorithm


def _file_of(keystore: Keystore, key_id: UUID) -> Path:
    from tde.keystore import KeyOwner

    return keystore.path / "keys" / KeyOwner.named(key_id).file_name


def _create(parameters: Mapping[str, Any], name: str, location: Path) -> int:
    """Create the tablespace and return its OID."""
    statement = sql.SQL("CREATE TABLESPACE {} LOCATION {}").format(
        sql.Identifier(name), sql.Literal(str(location))
    )
    try:
        with closing(connect(parameters)) as connection:
            # CREATE TABLESPACE cannot run inside a transaction block.
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(statement)
                cursor.execute("SELECT oid FROM pg_tablespace WHERE spcname = %s", (name,))
                oid: int = cursor.fetchone()[0]
                return oid
    except psycopg2.Error as error:
        raise TablespaceError(
            f'the tablespace "{name}" was not created: {str(error).strip()}',
            remedy="See the server's log, and tde tablespace list.",
        ) from error


@contextmanager
def _made_directories(location: Path, own: Path, os_user: OsUser | None) -> Iterator[None]:
    """Make the tablespace's own directory for the server's user, and what it lies in.

    When the body fails, what was made is removed again as far as it is empty: after a lost
    connection or Ctrl-C the tablespace may exist all the same.

    Raises:
        TablespaceError: the location is not a directory, or cannot be made.
        UnreachablePathError: the server's user cannot get there.
        UnsafeDirectoryError: it is another user's, or would be made where others could
            mislead root.
    """
    if location.exists() and not location.is_dir():
        raise TablespaceError(
            f"the location {location} is not a directory",
            remedy="Name a directory, or one that does not exist.",
        )
    require_reachable(os_user, own, "the tablespace location")
    owner = None if os_user is None else os_user.owner
    made: list[Path] = []
    try:
        if not location.exists():
            create_parents(location, owner)
            create_directory(location, owner)
            made.append(location)
        elif not any(location.iterdir()):
            adopt_directory(location, owner)
        create_directory(own, owner)
        made.append(own)
        # PostgreSQL syncs neither: after a power failure the tablespace would be a broken link.
        for directory in (location, location.parent):
            sync_directory(directory)
    except FileExistsError:
        # Prepared by hand for a prepared key, as on a standby.
        if any(own.iterdir()):
            raise TablespaceError(
                f"the location {own} is not empty",
                remedy="Its key has been used: create the tablespace with a new one.",
            ) from None
        adopt_directory(own, owner)
    except OSError as error:
        raise TablespaceError(f"the location {own} cannot be made: {error.strerror}") from error
    try:
        yield
    except BaseException:
        for directory in reversed(made):
            with suppress(OSError):
                directory.rmdir()
        raise
