"""Extensions of others, each with something to store and a question about it.

Chosen are those that do something to files or to the server: access methods and types of their own,
hooks, background workers, logical decoding, rewrites of tables. Each has a database with a table
``kept`` of ROWS rows (n int, t text) that hold the canary.
"""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tde.postgres import PostgresBinaries

ROWS = 2000


@dataclass(frozen=True)
class Extension:
    """An extension, and what is done with it.

    Attributes:
        name: what CREATE EXTENSION takes; of an output plugin, its library.
        package: of Debian's ``postgresql-N-package``; none for what belongs to contrib.
        make: statements that store something.
        ask: a query whose answer is the same after a crash.
        preload: its library, where that must be loaded with the server.
        settings: what the server needs besides.
        creates: whether there is anything to create.
    """

    name: str
    package: str | None
    ask: str
    make: Sequence[str] = ()
    preload: str | None = None
    settings: Sequence[tuple[str, str]] = ()
    creates: bool = True

    def is_installed(self, binaries: PostgresBinaries) -> bool:
        if self.creates:
            return (_directory(binaries, "--sharedir") / f"extension/{self.name}.control").exists()
        return (_directory(binaries, "--pkglibdir") / f"{self.name}.so").exists()


def _directory(binaries: PostgresBinaries, option: str) -> Path:
    command = [binaries.program("pg_config"), option]
    return Path(subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip())


def _indexed(column: str, type_: str, value: str, index: str) -> tuple[str, ...]:
    """Return statements that add a column of a type, fill it and make an index of it."""
    return (
        f"ALTER TABLE kept ADD {column} {type_}",
        f"UPDATE kept SET {column} = {value}",
        f"CREATE INDEX ON kept USING {index}",
    )


def _where(condition: str) -> str:
    return f"SELECT count(*), sum(n) FROM kept WHERE {condition}"


EVERYTHING = "SELECT count(*), sum(n), md5(string_agg(t, '' ORDER BY n)) FROM kept"

ACCESS_METHODS_AND_TYPES = (
    Extension("amcheck", None, "SELECT count(*) FROM verify_heapam('kept')"),
    Extension("bloom", None, _where("n = 7"), ["CREATE INDEX ON kept USING bloom (n)"]),
    Extension("btree_gist", None, _where("n < 7"), ["CREATE INDEX ON kept USING gist (n)"]),
    Extension("btree_gin", None, _where("n < 7"), ["CREATE INDEX ON kept USING gin (n)"]),
    Extension("citext", None, _where("c = 'A7'"), _indexed("c", "citext", "'a' || n", "btree (c)")),
    Extension(
        "cube", None, _where("c <@ '(1,1),(9,9)'"),
        _indexed("c", "cube", "cube(array[n % 50, n / 50])", "gist (c)"),
    ),
    Extension(
        "hstore", None, _where("h @> 'n=>7'"),
        _indexed("h", "hstore", "hstore('n', n::text)", "gin (h)"),
    ),
    Extension(
        "intarray", None, _where("a @> array[7]"),
        _indexed("a", "int[]", "array[n, n % 10]", "gist (a gist__int_ops)"),
    ),
    Extension(
        "ltree", None, _where("l <@ 'a.7'"),
        _indexed("l", "ltree", "text2ltree('a.' || n % 10 || '.' || n)", "gist (l)"),
    ),
    Extension(
        "pg_trgm", None, _where("t LIKE '%1999%'"),
        ["CREATE INDEX ON kept USING gin (t gin_trgm_ops)"],
    ),
    Extension(
        "pgcrypto", None, _where("pgp_sym_decrypt(p, 'k') = '7'"),
        ["ALTER TABLE kept ADD p bytea",
         "UPDATE kept SET p = pgp_sym_encrypt(n::text, 'k', 's2k-mode=0') WHERE n < 50"],
    ),
    Extension(
        "seg", None, _where("s && '3 .. 5'"),
        _indexed("s", "seg", "(n || ' .. ' || n + 1)::seg", "gist (s)"),
    ),
    Extension("pg_visibility", None, "SELECT count(*) FROM pg_check_visible('kept')",
              ["VACUUM kept"]),
    Extension("pgstattuple", None, "SELECT tuple_count FROM pgstattuple('kept')"),
    Extension(
        "postgres_fdw", None, "SELECT count(*) FROM far",
        ["CREATE SERVER here FOREIGN DATA WRAPPER postgres_fdw OPTIONS "
         "(host '{host}', port '{port}', dbname '{dbname}')",
         "CREATE USER MAPPING FOR CURRENT_USER SERVER here OPTIONS (user '{user}')",
         "CREATE FOREIGN TABLE far (n int, t text) SERVER here OPTIONS (table_name 'kept')"],
    ),
    Extension(
        "postgis", "postgis-3", _where("g && ST_MakeEnvelope(10, 10, 50, 50)"),
        _indexed("g", "geometry", "ST_MakePoint(n % 180, n % 90)", "gist (g)"),
    ),
    Extension(
        "vector", "pgvector",
        "SELECT array_agg(n) FROM (SELECT n FROM kept ORDER BY v <-> '[5,5,5]' LIMIT 5) s",
        _indexed("v", "vector(3)", "array[n, n % 7, n % 13]", "hnsw (v vector_l2_ops)"),
    ),
    Extension(
        "rum", "rum", _where("s @@ to_tsquery('simple', '7')"),
        _indexed("s", "tsvector", "to_tsvector('simple', n::text)", "rum (s rum_tsvector_ops)"),
    ),
    Extension(
        "pg_textsearch", "pg-textsearch",
        "SELECT array_agg(n) FROM (SELECT n FROM kept ORDER BY t <@> '1999' LIMIT 1) s",
        ["CREATE INDEX ON kept USING bm25 (t) WITH (text_config = 'simple')"],
        preload="pg_textsearch",
    ),
    Extension(
        "ip4r", "ip4r", _where("a <<= '10.0.1.0/24'"),
        _indexed("a", "ip4r", "('10.0.' || n / 256 || '.' || n % 256)::ip4r", "gist (a)"),
    ),
    Extension(
        "hll", "hll", "SELECT sum(hll_cardinality(h))::int FROM counted",
        ["CREATE TABLE counted AS SELECT n % 9 AS k, hll_add_agg(hll_hash_integer(n)) AS h "
         "FROM kept GROUP BY 1"],
    ),
    Extension(
        "tdigest", "tdigest", "SELECT tdigest_percentile(d, 0.5)::int FROM digest",
        ["CREATE TABLE digest AS SELECT tdigest(n::float8, 100) AS d FROM kept"],
    ),
    Extension(
        "roaringbitmap", "roaringbitmap", "SELECT rb_cardinality(b) FROM bits",
        ["CREATE TABLE bits AS SELECT rb_build_agg(n) AS b FROM kept"],
    ),
    Extension(
        "prefix", "prefix", _where("p @> '12'"),
        _indexed("p", "prefix_range", "n::text::prefix_range", "gist (p)"),
    ),
    Extension(
        "q3c", "q3c", _where("q3c_radial_query(n % 360, n % 90, 11, 12, 4.0)"),
        ["CREATE INDEX ON kept (q3c_ang2ipix(n % 360, n % 90))"],
    ),
    Extension(
        "semver", "semver", _where("v < '7.0.0'"),
        _indexed("v", "semver", "(n || '.0.0')::semver", "btree (v)"),
    ),
    Extension(
        "jsquery", "jsquery", _where("j @@ 'n = 7'::jsquery"),
        _indexed("j", "jsonb", "jsonb_build_object('n', n)", "gin (j jsonb_path_value_ops)"),
    ),
    Extension(
        "pgmp", "pgmp", _where("z < 7"), _indexed("z", "mpz", "n::text::mpz", "btree (z)"),
    ),
    Extension(
        "age", "age", "SELECT count(*) FROM graph.\"P\"",
        ["LOAD 'age'; SET search_path = ag_catalog, public; SELECT create_graph('graph')",
         "LOAD 'age'; SET search_path = ag_catalog, public; "
         "SELECT * FROM cypher('graph', $$UNWIND range(1, 50) AS n CREATE (:P {{n: n}})$$) "
         "AS (a agtype)"],
    ),
    Extension("orafce", "orafce", _where("v = 'a7'"),
              ["ALTER DATABASE orafce SET search_path = public, oracle",
               *_indexed("v", "varchar2(20)", "'a' || n", "btree (v)")]),
)  # fmt: skip

HOOKS_AND_WORKERS = (
    Extension(
        "pg_stat_statements", None, "SELECT count(*) > 0 FROM pg_stat_statements",
        preload="pg_stat_statements",
    ),
    Extension("pg_prewarm", None, EVERYTHING,
              ["SELECT pg_prewarm('kept')", "SELECT autoprewarm_dump_now()"], preload="pg_prewarm"),
    Extension(
        "pg_stat_kcache", "pg-stat-kcache", "SELECT count(*) > 0 FROM pg_stat_kcache()",
        preload="pg_stat_kcache",
    ),
    Extension("pg_qualstats", "pg-qualstats", EVERYTHING, preload="pg_qualstats"),
    Extension("pg_wait_sampling", "pg-wait-sampling", EVERYTHING, preload="pg_wait_sampling"),
    Extension("pg_hint_plan", "pg-hint-plan", f"/*+ SeqScan(kept) */ {EVERYTHING}",
              preload="pg_hint_plan"),
    # Not for the whole server: PostGIS cannot be created then.
    Extension("pgaudit", "pgaudit", EVERYTHING,
              ["SET pgaudit.log = 'all'; INSERT INTO kept SELECT n, t FROM kept"],
              preload="pgaudit"),
    Extension("set_user", "set-user", EVERYTHING, preload="set_user"),
    Extension("hypopg", "hypopg", "SELECT count(*) FROM hypopg_create_index("
              "'CREATE INDEX ON kept (n)')"),
    Extension("plpgsql_check", "plpgsql-check", EVERYTHING),
    Extension("pg_dirtyread", "dirtyread",
              "SELECT count(*) FROM pg_dirtyread('kept') AS t (n int, t text)",
              ["ALTER TABLE kept SET (autovacuum_enabled = off)", "DELETE FROM kept WHERE n > 9"]),
    Extension("pgfincore", "pgfincore", "SELECT rel_os_pages FROM pgfincore('kept')"),
    Extension(
        "pg_cron", "cron", "SELECT count(*) FROM cron.job",
        ["SELECT cron.schedule('nightly', '0 3 * * *', 'VACUUM')"], preload="pg_cron",
        settings=[("cron.database_name", "pg_cron"), ("cron.use_background_workers", "on")],
    ),
    Extension(
        "timescaledb", "timescaledb", "SELECT count(*), sum(n) FROM measured",
        ["CREATE TABLE measured (at timestamptz NOT NULL, n int)",
         "SELECT create_hypertable('measured', 'at')",
         "INSERT INTO measured SELECT '2026-01-01'::timestamptz + n * '1 hour'::interval, n "
         "FROM kept"],
        preload="timescaledb", settings=[("timescaledb.telemetry_level", "off")],
    ),
    Extension(
        "pg_partman", "partman", "SELECT count(*), sum(n) FROM parted",
        ["CREATE TABLE parted (n int NOT NULL, t text) PARTITION BY RANGE (n)",
         "DO $$ BEGIN "
         "IF (SELECT extversion FROM pg_extension WHERE extname = 'pg_partman') LIKE '4.%' THEN "
         "PERFORM create_parent('public.parted', 'n', 'native', '1000'); ELSE "
         "PERFORM create_parent('public.parted', 'n', '1000'); END IF; END $$",
         "INSERT INTO parted SELECT n, t FROM kept"],
    ),
    Extension(
        "pgq", "pgq3", "SELECT count(*) FROM pgq.event_1",
        ["SELECT pgq.create_queue('q')",
         "SELECT pgq.insert_event('q', 'row', t) FROM kept"],
    ),
    Extension(
        "periods", "periods", "SELECT count(*) FROM kept_history",
        ["ALTER TABLE kept ADD PRIMARY KEY (n)",
         "SELECT periods.add_system_time_period('kept')",
         "SELECT periods.add_system_versioning('kept')",
         "UPDATE kept SET t = t || '.' WHERE n < 50"],
    ),
    Extension(
        "pg_ivm", "pg-ivm", "SELECT c FROM counted",
        ["SELECT pgivm.create_immv('counted', 'SELECT count(*) AS c FROM kept')",
         "INSERT INTO kept SELECT n, t FROM kept"],
        preload="pg_ivm",
    ),
    Extension("pg_repack", "repack", EVERYTHING, ["ALTER TABLE kept ADD PRIMARY KEY (n)",
              "UPDATE kept SET t = t || '.'"]),
    Extension(
        "pg_squeeze", "squeeze", EVERYTHING,
        ["ALTER TABLE kept ADD PRIMARY KEY (n)", "UPDATE kept SET t = t || '.'",
         "SELECT squeeze.squeeze_table('public', 'kept')"],
        preload="pg_squeeze",
    ),
    Extension("wal2json", "wal2json", EVERYTHING, creates=False),
    Extension(
        "pglogical", "pglogical", "SELECT count(*) FROM pglogical.node",
        ["SELECT pglogical.create_node('here', 'host={host} port={port} dbname={dbname}')",
         "ALTER TABLE kept ADD PRIMARY KEY (n)",
         "SELECT pglogical.replication_set_add_table('default', 'kept')"],
        preload="pglogical",
    ),
)  # fmt: skip

EXTENSIONS = (*ACCESS_METHODS_AND_TYPES, *HOOKS_AND_WORKERS)
