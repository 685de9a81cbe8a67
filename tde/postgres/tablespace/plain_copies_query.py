"""The query that finds, in one database, what copies encrypted rows into plain tablespaces.

It reads system catalogs only. An object without a tablespace of its own lies in that of its
database. A tablespace is moved by name only: large objects, and the statistics of all tables,
always lie where the database does.
"""

from __future__ import annotations

from collections.abc import Collection

_QUERY = """
WITH RECURSIVE rel AS (
    SELECT c.oid, c.relkind, c.relispartition,
        pg_catalog.format('%I.%I', n.nspname, c.relname) AS name,
        coalesce(nullif(c.reltablespace, 0), d.dattablespace) AS spc,
        c.reltoastrelid
    FROM pg_catalog.pg_class c
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    JOIN pg_catalog.pg_database d ON d.datname = pg_catalog.current_database()
), secret AS (
    SELECT * FROM rel WHERE spc = ANY ({encrypted}) AND relkind IN ('r', 'm', 'p', 't')
), open AS (
    SELECT * FROM rel WHERE spc = ANY ({plain})
), above(parent, child) AS (
    SELECT inhparent, inhrelid FROM pg_catalog.pg_inherits
    UNION SELECT i.inhparent, a.child FROM above a
        JOIN pg_catalog.pg_inherits i ON i.inhrelid = a.parent
), kin(parent, source) AS (
    -- One encrypted table of those that inherit from a table, partitions above all.
    SELECT parent, min(child) FROM above JOIN secret ON secret.oid = child
        WHERE secret.relkind <> 'p' GROUP BY parent
), holder(oid, inherited, source) AS (
    -- Relations whose statistics copy rows of an encrypted one: itself, what it inherits from
    -- (ANALYZE reads all partitions), and indexes on expressions.
    SELECT oid, false, oid FROM secret WHERE relkind <> 'p'
    UNION SELECT parent, true, source FROM kin
    UNION SELECT indexrelid, false, indrelid FROM pg_catalog.pg_index
        JOIN secret ON secret.oid = indrelid
), reads(viewer, source) AS (
    -- What a view selects from, and the partitions of that.
    SELECT r.ev_class, d.refobjid FROM pg_catalog.pg_rewrite r
        JOIN pg_catalog.pg_depend d ON d.classid = 'pg_catalog.pg_rewrite'::regclass
            AND d.objid = r.oid AND d.refclassid = 'pg_catalog.pg_class'::regclass
            AND d.refobjid <> r.ev_class
        JOIN rel ON rel.oid = r.ev_class AND rel.relkind IN ('v', 'm')
    UNION SELECT parent, child FROM above
), reached(viewer, source) AS (
    SELECT viewer, source FROM reads JOIN open ON open.oid = viewer AND open.relkind = 'm'
    UNION SELECT reached.viewer, reads.source FROM reached
        JOIN reads ON reads.viewer = reached.source
), family(partition, relative) AS (
    -- A partitioned table and the partitions next to it: its rows belong together.
    SELECT child, parent FROM above JOIN secret ON secret.oid = parent
    UNION SELECT child, source FROM above JOIN kin USING (parent)
), found(kind, name, source, source_oid, place, columns, id) AS (
    SELECT CASE WHEN open.relkind = 't' THEN 'TOAST table' ELSE 'TOAST index' END,
            open.name, owner.name, owner.oid, open.spc, NULL::text[], open.oid
        FROM secret owner
        LEFT JOIN pg_catalog.pg_index i ON i.indrelid = owner.reltoastrelid
        JOIN open ON open.oid IN (owner.reltoastrelid, i.indexrelid)
    UNION SELECT 'index', open.name, secret.name, secret.oid, open.spc, NULL, open.oid
        FROM pg_catalog.pg_index i
        JOIN secret ON secret.oid = i.indrelid AND secret.relkind <> 't'
        JOIN open ON open.oid = i.indexrelid AND open.relkind = 'i'
    UNION SELECT 'materialized view', open.name, secret.name, secret.oid, open.spc, NULL, open.oid
        FROM (SELECT r.viewer, min(r.source) AS source FROM reached r
            JOIN secret s ON s.oid = r.source GROUP BY r.viewer) first
        JOIN secret ON secret.oid = first.source
        JOIN open ON open.oid = first.viewer
    UNION SELECT 'partition', open.name, secret.name, secret.oid, open.spc, NULL, open.oid
        FROM (SELECT partition, min(relative) AS relative FROM family GROUP BY partition) first
        JOIN secret ON secret.oid = first.relative
        JOIN open ON open.oid = first.partition AND open.relkind = 'r' AND open.relispartition
    UNION SELECT 'statistics', rel.name, source.name, source.oid, store.spc,
            pg_catalog.array_agg(CASE WHEN rel.relkind = 'i' THEN a.attnum::text
                ELSE pg_catalog.quote_ident(a.attname) END ORDER BY a.attnum), rel.oid
        FROM pg_catalog.pg_statistic s
        JOIN holder h ON h.oid = s.starelid AND h.inherited = s.stainherit
        JOIN rel ON rel.oid = s.starelid
        JOIN rel source ON source.oid = h.source
        JOIN open store ON store.oid = 'pg_catalog.pg_statistic'::regclass
        JOIN pg_catalog.pg_attribute a ON a.attrelid = s.starelid AND a.attnum = s.staattnum
        WHERE s.stavalues1 IS NOT NULL OR s.stavalues2 IS NOT NULL OR s.stavalues3 IS NOT NULL
            OR s.stavalues4 IS NOT NULL OR s.stavalues5 IS NOT NULL
        GROUP BY rel.name, rel.oid, source.name, source.oid, store.spc
    UNION SELECT 'extended statistics', pg_catalog.format('%I.%I', n.nspname, e.stxname),
            source.name, source.oid, store.spc, NULL, e.oid
        FROM pg_catalog.pg_statistic_ext_data s
        JOIN pg_catalog.pg_statistic_ext e ON e.oid = s.stxoid
        JOIN pg_catalog.pg_namespace n ON n.oid = e.stxnamespace
        JOIN holder h ON h.oid = e.stxrelid AND h.inherited = s.stxdinherit
        JOIN rel source ON source.oid = h.source
        JOIN open store ON store.oid = 'pg_catalog.pg_statistic_ext_data'::regclass
        WHERE s.stxdmcv IS NOT NULL OR s.stxdexpr IS NOT NULL
    UNION SELECT 'large objects', 'pg_catalog.pg_largeobject', secret.name, secret.oid, store.spc,
            pg_catalog.array_agg(pg_catalog.quote_ident(a.attname) ORDER BY a.attnum), store.oid
        FROM secret
        JOIN pg_catalog.pg_attribute a ON a.attrelid = secret.oid AND a.attnum > 0
            AND NOT a.attisdropped
        JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
        JOIN open store ON store.oid = 'pg_catalog.pg_largeobject'::regclass
        WHERE 'pg_catalog.oid'::regtype IN (t.oid, t.typbasetype) AND secret.oid >= 16384
            AND EXISTS (SELECT FROM pg_catalog.pg_largeobject_metadata)
        GROUP BY secret.name, secret.oid, store.spc, store.oid
)
SELECT coalesce(pg_catalog.json_agg(pg_catalog.json_build_object(
    'kind', f.kind, 'name', f.name, 'source', f.source, 'columns', f.columns, 'id', f.id::int8,
    'tablespace', here.spcname, 'target', pg_catalog.quote_ident(there.spcname),
    'of_index', rel.relkind IS NOT DISTINCT FROM 'i'
) ORDER BY f.kind, f.source, f.name), '[]')
FROM found f
JOIN rel source ON source.oid = f.source_oid
JOIN pg_catalog.pg_tablespace here ON here.oid = f.place
JOIN pg_catalog.pg_tablespace there ON there.oid = source.spc
LEFT JOIN rel ON rel.oid = f.id AND f.kind = 'statistics'
"""

OVERVIEW = """
SELECT pg_catalog.json_build_object(
    'tablespaces', (SELECT pg_catalog.json_agg(oid::int8) FROM pg_catalog.pg_tablespace),
    'databases', (SELECT pg_catalog.json_agg(pg_catalog.json_build_array(datname, datallowconn)
        ORDER BY datname) FROM pg_catalog.pg_database WHERE datname <> 'template0'))
"""
"""Yields the tablespaces, and the databases with whether they allow connections.

template0 is never connected to and holds nothing but what initdb made.
"""


def copies_query(encrypted: Collection[int], plain: Collection[int]) -> str:
    """Return the query for a database.

    Args:
        encrypted: OIDs of the tablespaces that have a key.
        plain: of those in plain text.
    """
    return _QUERY.format(encrypted=_array(encrypted), plain=_array(plain))


def _array(oids: Collection[int]) -> str:
    return f"'{{{','.join(str(int(oid)) for oid in sorted(oids))}}}'::pg_catalog.oid[]"
