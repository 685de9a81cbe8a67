"""A database with one of everything that can lie in a tablespace, and what must stay equal."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psycopg2
import pytest

from tde.algorithms import Algorithm
from tde.postgres import create_tablespace

if TYPE_CHECKING:
    from tde.postgres import Tablespace
    from tests.conftest import RunningCluster

SCHEMA = '"Sch""ema"'
HOSTILE = '"Zürich; DROP TABLE %s\n--"'
PEOPLE = f"{SCHEMA}.{HOSTILE}"
_EVERYTHING = f"""
CREATE SCHEMA {SCHEMA};
CREATE TABLE {PEOPLE} (id serial PRIMARY KEY, "Name" text, wide text);
INSERT INTO {PEOPLE} ("Name", wide) SELECT 'row ' || g, CASE WHEN g % 50 = 0 THEN
        (SELECT string_agg(md5((g + h)::text), '') FROM generate_series(1, 200) h) END
    FROM generate_series(1, 1000) g;
CREATE INDEX "Index of %s" ON {PEOPLE} ("Name");
CREATE INDEX lower_of_name ON {PEOPLE} (lower("Name")) WHERE id > 10;
CREATE INDEX hash_of_name ON {PEOPLE} USING hash ("Name");
CREATE TABLE kept_out (during int4range, EXCLUDE USING gist (during WITH &&));
INSERT INTO kept_out SELECT int4range(g * 10, g * 10 + 5) FROM generate_series(1, 500) g;
CREATE UNLOGGED TABLE unlogged AS SELECT g AS n FROM generate_series(1, 500) g;
CREATE INDEX ON unlogged (n);
CREATE MATERIALIZED VIEW seen AS SELECT id, "Name" FROM {PEOPLE} WHERE id % 2 = 0;
CREATE UNIQUE INDEX ON seen (id);
CREATE TABLE parted (k int PRIMARY KEY, x text) PARTITION BY RANGE (k);
CREATE TABLE parted_1 PARTITION OF parted FOR VALUES FROM (0) TO (500);
CREATE TABLE parted_2 PARTITION OF parted FOR VALUES FROM (500) TO (1000);
INSERT INTO parted SELECT g, 'part ' || g FROM generate_series(0, 999) g;
CREATE TABLE twice AS SELECT g % 100 AS n FROM generate_series(1, 300) g;
CREATE TABLE deferred (n int UNIQUE DEFERRABLE INITIALLY DEFERRED);
INSERT INTO deferred SELECT generate_series(1, 300);
CREATE TABLE member AS SELECT g AS n FROM generate_series(1, 300) g;
ALTER EXTENSION plpgsql ADD TABLE member;
CREATE TABLE no_columns ();
"""
_TABLES = (PEOPLE, "kept_out", "unlogged", "seen", "parted", "twice", "deferred", "member")

# Each is answered by an index.
_BY_INDEX = (
    f"SELECT count(*), sum(id) FROM {PEOPLE} WHERE id BETWEEN 100 AND 900",
    f"SELECT count(*) FROM {PEOPLE} WHERE \"Name\" > 'row 5'",
    f"SELECT count(*) FROM {PEOPLE} WHERE lower(\"Name\") > 'row 5' AND id > 10",
    "SELECT count(*) FROM kept_out WHERE during && int4range(100, 1000)",
    "SELECT count(*) FROM unlogged WHERE n > 250",
    "SELECT count(*) FROM seen WHERE id > 250",
    "SELECT count(*) FROM parted WHERE k BETWEEN 250 AND 750",
    "SELECT count(*) FROM deferred WHERE n > 250",
)

# By name, but for TOAST, whose names are numbers.
_PLACES = """
SELECT c.relkind::text, c.relname, coalesce(nullif(c.reltablespace, 0), d.dattablespace)
FROM pg_class c JOIN pg_database d ON d.datname = current_database()
WHERE c.oid >= 16384 AND c.relkind IN ('r', 'm', 'p', 'i', 'I', 'S', 't')
    AND c.relpersistence <> 't'
"""


def make_spaces(made: RunningCluster, *names: str) -> list[Tablespace]:
    """Make tablespaces with keys of their own, beside the data directory."""
    place = made.data_directory.parent / "spaces"
    return [
        create_tablespace(made.cluster, made.keystore, name, place / str(number), Algorithm.AES256)
        for number, name in enumerate(names)
    ]


def make_everything(made: RunningCluster, dbname: str = "postgres", *, where: str = "") -> None:
    """Fill a database, with its own or another default tablespace (quoted)."""
    before = f"SET default_tablespace = {where};" if where else ""
    made.query(before + _EVERYTHING, dbname=dbname)
    with pytest.raises(psycopg2.errors.UniqueViolation):
        made.query(
            "CREATE UNIQUE INDEX CONCURRENTLY broken ON twice (n)"
            + (f" TABLESPACE {where}" if where else ""),
            dbname=dbname,
        )


def content(made: RunningCluster, dbname: str = "postgres") -> list[object]:
    """Return what is in the tables, read from the tables and through their indexes."""
    rows: list[object] = []
    for table in _TABLES:
        rows += made.query(
            f"SELECT md5(string_agg(t::text, '|' ORDER BY t::text)) FROM {table} t", dbname=dbname
        )
    for query in _BY_INDEX:
        rows += made.query(f"SET enable_seqscan = off; {query}", dbname=dbname)
    return rows


def places(made: RunningCluster, dbname: str = "postgres") -> dict[str, set[tuple[str, int]]]:
    """Return the kinds of relations of a database with the OIDs of their tablespaces, by name."""
    found: dict[str, set[tuple[str, int]]] = {}
    for kind, name, tablespace in made.query(_PLACES, dbname=dbname):
        key = "toast" if name.startswith("pg_toast") else name
        found.setdefault(key, set()).add((kind, tablespace))
    return found
