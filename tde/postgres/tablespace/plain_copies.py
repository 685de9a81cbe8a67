"""Plaintext copies of encrypted rows: what PostgreSQL itself puts into a plain tablespace.

Where only some tablespaces are encrypted, CREATE INDEX puts the index of an encrypted table into
the default tablespace, and ANALYZE puts values of it into pg_statistic, which lies where the
database does. Both are right, and nobody is told. What a person copies (CREATE TABLE AS, INSERT)
leaves no trace in the catalogs and is not found.
"""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tde.errors import TdeError
from tde.postgres.cluster.landed_keys import known_map
from tde.postgres.cluster.marker import require_matching_keystore
from tde.postgres.cluster.protection import NO_KEY, PLAINTEXT, Protections
from tde.postgres.cluster.questions import ask_server
from tde.postgres.cluster.scope import Scope
from tde.postgres.tablespace.plain_copies_query import OVERVIEW, copies_query

if TYPE_CHECKING:
    from tde.postgres.cluster.cluster import Cluster

WHOLE_DATABASE = (
    "keep the whole database in an encrypted tablespace: create one that holds nothing of it, end "
    "its sessions, and ALTER DATABASE ... SET TABLESPACE"
)
"""The remedy that covers every kind of copy."""

_FIRST_OWN_OID = 16384  # Below are the system catalogs, which ALTER TABLE refuses to change.


class CopyKind(str, Enum):
    """What copies rows."""

    INDEX = "index"
    TOAST_TABLE = "TOAST table"
    TOAST_INDEX = "TOAST index"
    MATERIALIZED_VIEW = "materialized view"
    PARTITION = "partition"
    STATISTICS = "statistics"
    EXTENDED_STATISTICS = "extended statistics"
    LARGE_OBJECTS = "large objects"


@dataclass(frozen=True)
class PlainCopy:
    """Something in a plain tablespace that holds rows, or values, of an encrypted table.

    Attributes:
        database: its name.
        name: of the object, quoted as SQL needs it; of statistics, the table that they describe.
        source: the encrypted table; of several, one.
        tablespace: the plain one in which the copy lies.
        columns: of statistics and large objects, those concerned.
        statements: SQL to run in that database as a superuser, after which it is none any more;
            empty when only :data:`WHOLE_DATABASE` helps.
    """

    database: str
    kind: CopyKind
    name: str
    source: str
    tablespace: str
    columns: tuple[str, ...] = ()
    statements: tuple[str, ...] = ()

    @property
    def problem(self) -> str:
        """What is wrong, in words."""
        columns = f" ({', '.join(self.columns)})" if self.columns else ""
        where = f"in plaintext in tablespace {self.tablespace} (database {self.database})"
        if self.kind is CopyKind.STATISTICS:
            place = "pg_catalog.pg_statistic"
            return f"{place} holds values of {self.name}{columns} {where}"
        if self.kind is CopyKind.EXTENDED_STATISTICS:
            place = "pg_catalog.pg_statistic_ext_data"
            return f"{place} holds values of {self.source}, for the statistics {self.name}, {where}"
        if self.kind is CopyKind.LARGE_OBJECTS:
            return f"{self.name} holds the large objects of {self.source}{columns} {where}"
        verb = "belongs to" if self.kind is CopyKind.PARTITION else "copies rows of"
        return f"{self.kind.value} {self.name} {verb} {self.source} {where}"

    @property
    def remedy(self) -> str:
        """What to do about it."""
        whole = f"{WHOLE_DATABASE[0].upper()}{WHOLE_DATABASE[1:]}."
        if not self.statements:
            return whole
        statements = f"In database {self.database}: {'; '.join(self.statements)};"
        if self.kind in (CopyKind.STATISTICS, CopyKind.EXTENDED_STATISTICS):
            return f"{whole} Or do without them: {statements[0].lower()}{statements[1:]}"
        return statements

    def as_json(self) -> dict[str, Any]:
        """Return the fields as values that the json module can write."""
        return {
            **vars(self),
            "kind": self.kind.value,
            "problem": self.problem,
            "remedy": self.remedy,
        }


@dataclass(frozen=True)
class PlainCopies:
    """What was found, and what could not be looked at.

    Attributes:
        possible: whether there can be any: some tablespaces have a key, and others have none.
        obstacle: why nothing was looked for; empty when it was, or when there can be none.
        unread: databases that were not looked into, with the reason.
    """

    possible: bool
    copies: tuple[PlainCopy, ...] = ()
    obstacle: str = ""
    unread: Mapping[str, str] = field(default_factory=dict)

    @property
    def all_seen(self) -> bool:
        """Whether everything was looked at."""
        return not self.obstacle and not self.unread

    def as_json(self) -> dict[str, Any]:
        """Return the fields as values that the json module can write."""
        return {
            "possible": self.possible,
            "obstacle": self.obstacle,
            "unread": dict(self.unread),
            "copies": [copy.as_json() for copy in self.copies],
        }


def find_plain_copies(
    cluster: Cluster, keystore_path: Path | None = None, *, username: str | None = None
) -> PlainCopies:
    """Look in every database of a running server for plaintext copies of encrypted rows.

    What keeps it from looking is part of the result. No passphrase is needed.

    Args:
        keystore_path: where the keystore is now; where it was last when ``None``.
        username: a superuser to connect as; by default the one that initdb made.

    Raises:
        TdeError: tde.json cannot be used.
    """
    marker = cluster.marker
    if marker is None:
        return PlainCopies(possible=False)
    if cluster.pid is None:
        possible = marker.scope is Scope.TABLESPACES
        return PlainCopies(possible, obstacle="no server runs" if possible else "")
    try:
        return _look(cluster, keystore_path or marker.keystore, username)
    except (TdeError, OSError, ValueError, subprocess.SubprocessError) as error:
        if marker.scope is Scope.CLUSTER:
            return PlainCopies(possible=False)
        return PlainCopies(possible=True, obstacle=str(error))


def _look(cluster: Cluster, keystore_path: Path, username: str | None) -> PlainCopies:
    from tde.keystore import inspect_keystore

    marker = cluster.marker
    status = inspect_keystore(keystore_path)
    require_matching_keystore(cluster.data_directory, marker, status.uuid)
    known = Protections(known_map(cluster.data_directory, keystore_path, None), status.keys)
    if marker is not None and marker.scope is Scope.CLUSTER:
        # Plain tablespaces are an exception there that the key records tell of: no question is
        # put to the server of an ordinary cluster.
        records = {record.algorithm for record in status.keys}
        if None not in records:
            return PlainCopies(possible=False)
    overview = ask_server(cluster, OVERVIEW, username=username)
    protections = {oid: known.of(oid) for oid in overview["tablespaces"]}
    plain = [oid for oid, protection in protections.items() if protection == PLAINTEXT]
    encrypted = [oid for oid, found in protections.items() if found not in (PLAINTEXT, NO_KEY)]
    if not plain or not encrypted:
        return PlainCopies(possible=bool(plain))
    query = copies_query(encrypted, plain)
    copies: list[PlainCopy] = []
    unread: dict[str, str] = {}
    for database, allows_connections in overview["databases"]:
        if not allows_connections:
            unread[database] = "it allows no connections"
            continue
        try:
            rows = ask_server(cluster, query, database=database, username=username)
        except (TdeError, OSError, ValueError, subprocess.SubprocessError) as error:
            unread[database] = str(error)
            continue
        copies += [_copy_of(database, row) for row in rows]
    return PlainCopies(True, tuple(copies), unread=unread)


def _copy_of(database: str, row: Mapping[str, Any]) -> PlainCopy:
    kind = CopyKind(row["kind"])
    return PlainCopy(
        database=database,
        kind=kind,
        name=row["name"],
        source=row["source"],
        tablespace=row["tablespace"],
        columns=tuple(row["columns"] or ()),
        statements=tuple(_statements(kind, row)),
    )


def _statements(kind: CopyKind, row: Mapping[str, Any]) -> list[str]:
    name, oid = row["name"], row["id"]
    # VACUUM FULL, because VACUUM frees space in a page and leaves the bytes there.
    if kind is CopyKind.LARGE_OBJECTS:
        return []
    if kind is CopyKind.STATISTICS:
        what = "INDEX" if row["of_index"] else "TABLE"
        columns = row["columns"] if oid >= _FIRST_OWN_OID else ()
        return [
            *(f"ALTER {what} {name} ALTER COLUMN {c} SET STATISTICS 0" for c in columns),
            f"DELETE FROM pg_catalog.pg_statistic WHERE starelid = {oid}",
            "VACUUM FULL pg_catalog.pg_statistic",
        ]
    if kind is CopyKind.EXTENDED_STATISTICS:
        return [f"DROP STATISTICS {name}", "VACUUM FULL pg_catalog.pg_statistic_ext_data"]
    if kind in (CopyKind.TOAST_TABLE, CopyKind.TOAST_INDEX):
        # It follows its table; one that does not was moved by hand.
        what, name = "TABLE", row["source"]
    else:
        what = {
            CopyKind.INDEX: "INDEX",
            CopyKind.MATERIALIZED_VIEW: "MATERIALIZED VIEW",
            CopyKind.PARTITION: "TABLE",
        }[kind]
    return [f"ALTER {what} {name} SET TABLESPACE {row['target']}"]
