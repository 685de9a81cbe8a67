"""What a database has in a tablespace: what can be moved while the server runs, and what cannot."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

_FIRST_OWN_OID = 16384  # Below are the system catalogs, which ALTER TABLE refuses to move.


class Kind(str, Enum):
    """What can be moved."""

    TABLE = "table"
    MATERIALIZED_VIEW = "materialized view"
    PARTITIONED_TABLE = "partitioned table"
    INDEX = "index"
    PARTITIONED_INDEX = "partitioned index"


_KINDS = {
    "r": Kind.TABLE,
    "m": Kind.MATERIALIZED_VIEW,
    "p": Kind.PARTITIONED_TABLE,
    "i": Kind.INDEX,
    "I": Kind.PARTITIONED_INDEX,
}
_ALTERED_AS = {
    Kind.TABLE: "TABLE",
    Kind.MATERIALIZED_VIEW: "MATERIALIZED VIEW",
    Kind.PARTITIONED_TABLE: "TABLE",
    Kind.INDEX: "INDEX",
    Kind.PARTITIONED_INDEX: "INDEX",
}


@dataclass(frozen=True)
class Movable:
    """Something that is moved by one statement.

    Attributes:
        table: OID of the table that it is, or belongs to.
        name: with its schema, quoted as SQL needs it.
        bytes: of a table with its TOAST table and the index of that.
        concurrently: whether it is an index that is built anew while its table is written.
    """

    database: str
    oid: int
    table: int
    kind: Kind
    name: str
    bytes: int
    concurrently: bool = False

    @property
    def key(self) -> tuple[str, int]:
        """What it is known by, whatever it is called."""
        return self.database, self.oid

    @property
    def in_catalog_only(self) -> bool:
        """Whether it has no files, so that only the place of what is made later changes."""
        return self.kind in (Kind.PARTITIONED_TABLE, Kind.PARTITIONED_INDEX)

    @property
    def lock(self) -> str:
        """Which lock its statement takes, in words."""
        if self.concurrently:
            return "SHARE UPDATE EXCLUSIVE: reads and writes go on"
        if self.in_catalog_only:
            return "ACCESS EXCLUSIVE for a moment: only the catalog changes"
        return "ACCESS EXCLUSIVE: reads and writes of it wait while it is copied"

    def statement(self, target: str) -> str:
        """Return the SQL that moves it; ``target`` is quoted."""
        if self.concurrently:
            return f"REINDEX (CONCURRENTLY, TABLESPACE {target}) INDEX {self.name}"
        return f"ALTER {_ALTERED_AS[self.kind]} {self.name} SET TABLESPACE {target}"


@dataclass(frozen=True)
class Contents:
    """What one database has in a tablespace.

    Attributes:
        catalogs: system relations that somebody has moved there by hand.
        temporary: number of temporary relations of sessions.
        leftovers: invalid indexes, of this or the other tablespace, that a REINDEX CONCURRENTLY
            has left when it was interrupted.
        function_settings: functions and procedures, with their arguments as SQL needs them, and
            what each sets (``name=value``) about tablespaces.
    """

    movable: tuple[Movable, ...]
    catalogs: tuple[str, ...]
    temporary: int
    leftovers: tuple[str, ...]
    function_settings: tuple[tuple[str, str], ...]


# The sizes come from the files: pg_relation_size() would wait for locks. An object without a
# tablespace of its own, as each sequence is, lies in that of its database. A TOAST table, and its
# index, follow their table.
_CONTENTS = """
WITH own AS (
    SELECT dattablespace AS spc FROM pg_database WHERE datname = current_database()
), here AS (
    SELECT c.* FROM pg_class c, own
    WHERE c.relkind IN ('r', 'm', 'p', 'i', 'I', 'S', 't') AND NOT c.relisshared
        AND coalesce(nullif(c.reltablespace, 0), own.spc) = %(source)s
), place AS (
    SELECT regexp_replace(path, '/[^/]*$', '') AS directory
    FROM (SELECT pg_relation_filepath(oid) AS path FROM here WHERE relkind NOT IN ('p', 'I')) f
    WHERE path IS NOT NULL LIMIT 1
), file AS (
    SELECT substring(name FROM '^[0-9]+')::oid AS node,
        sum((pg_stat_file(directory || '/' || name, true)).size) AS size
    FROM place, pg_ls_dir(directory, true, false) name
    WHERE name ~ '^[0-9]+([._]|$)' GROUP BY 1
), toast AS (
    SELECT t.oid, coalesce(f.size, 0) + coalesce(sum(g.size), 0) AS size
    FROM here t
    LEFT JOIN file f ON f.node = t.relfilenode
    LEFT JOIN pg_index i ON i.indrelid = t.oid
    LEFT JOIN here x ON x.oid = i.indexrelid
    LEFT JOIN file g ON g.node = x.relfilenode
    WHERE t.relkind = 't' GROUP BY t.oid, f.size
)
SELECT h.oid::int8, h.relkind::text, h.relpersistence = 't', h.reltablespace <> 0,
    coalesce(i.indrelid, h.oid)::int8, format('%%I.%%I', n.nspname, h.relname),
    (coalesce(f.size, 0) + coalesce(t.size, 0))::int8,
    coalesce(i.indisvalid AND i.indisready AND NOT i.indisexclusion, false)
FROM here h
JOIN pg_namespace n ON n.oid = h.relnamespace
LEFT JOIN file f ON f.node = h.relfilenode
LEFT JOIN toast t ON t.oid = h.reltoastrelid
LEFT JOIN pg_index i ON i.indexrelid = h.oid
LEFT JOIN pg_class owner ON owner.oid = i.indrelid
WHERE h.relkind <> 't' AND owner.relkind IS DISTINCT FROM 't'
ORDER BY h.oid
"""

_ONE = """
SELECT format('%%I.%%I', n.nspname, c.relname),
    coalesce(i.indisvalid AND i.indisready AND NOT i.indisexclusion, false)
FROM pg_class c
JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN pg_database d ON d.datname = current_database()
LEFT JOIN pg_index i ON i.indexrelid = c.oid
WHERE c.oid = %(oid)s AND coalesce(nullif(c.reltablespace, 0), d.dattablespace) = %(source)s
"""

# Both tablespaces: the new index lies in one, and the old one, after the exchange, in the other.
_LEFTOVERS = """
SELECT format('%%I.%%I', n.nspname, c.relname)
FROM pg_index i
JOIN pg_class c ON c.oid = i.indexrelid
JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN pg_database d ON d.datname = current_database()
WHERE NOT i.indisvalid AND c.relname ~ '_cc(new|old)[0-9]*$' AND c.relkind = 'i'
    AND coalesce(nullif(c.reltablespace, 0), d.dattablespace) IN (%(source)s, %(target)s)
    AND NOT EXISTS (SELECT FROM pg_stat_progress_create_index p
        WHERE p.datname = d.datname AND p.relid = i.indrelid)
ORDER BY 1
"""

_FUNCTION_SETTINGS = """
SELECT p.oid::regprocedure::text, s.setting
FROM pg_proc p, unnest(p.proconfig) AS s(setting)
WHERE split_part(s.setting, '=', 1) IN ('default_tablespace', 'temp_tablespaces')
ORDER BY 1, 2
"""


def read_contents(connection: Any, database: str, source: int, target: int) -> Contents:
    """Look at what the database of a connection has in the tablespace ``source``.

    Raises:
        psycopg2.Error: the server did not answer.
    """
    with connection.cursor() as cursor:
        cursor.execute(_CONTENTS, {"source": source})
        rows = cursor.fetchall()
        cursor.execute(_LEFTOVERS, {"source": source, "target": target})
        leftovers = tuple(name for (name,) in cursor.fetchall())
        cursor.execute(_FUNCTION_SETTINGS)
        function_settings = tuple(cursor.fetchall())
    return Contents(
        movable=tuple(found for row in rows if (found := _movable(database, row))),
        catalogs=tuple(
            name for oid, _, _, explicit, _, name, *_ in rows if explicit and oid < _FIRST_OWN_OID
        ),
        temporary=sum(is_temporary for _, _, is_temporary, *_ in rows),
        leftovers=leftovers,
        function_settings=function_settings,
    )


def look_up(connection: Any, movable: Movable, source: int) -> Movable | None:
    """Return what an object is called now, or ``None`` when it is no longer in ``source``.

    Raises:
        psycopg2.Error: the server did not answer.
    """
    with connection.cursor() as cursor:
        cursor.execute(_ONE, {"oid": movable.oid, "source": source})
        row = cursor.fetchone()
    if row is None:
        return None
    name, concurrently = row
    return replace(movable, name=name, concurrently=concurrently and movable.kind is Kind.INDEX)


def _movable(database: str, row: Any) -> Movable | None:
    oid, relkind, is_temporary, _, table, name, size, concurrently = row
    if is_temporary or oid < _FIRST_OWN_OID or relkind not in _KINDS:
        return None
    kind = _KINDS[relkind]
    return Movable(database, oid, table, kind, name, size, concurrently and kind is Kind.INDEX)
