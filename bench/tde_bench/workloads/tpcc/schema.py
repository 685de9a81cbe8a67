"""The nine tables of TPC-C: sizes and columns of the specification, filled by the server.

Texts are simplified (the ten ``s_dist`` columns are one, and random texts are digests), because
only their sizes matter here. All rows follow from their numbers, so every server holds the same.
"""

from __future__ import annotations

from tde_bench.errors import ConsistencyError
from tde_bench.servers.database import Connection, execute, fetch_all

ITEMS = 100_000
DISTRICTS = 10
CUSTOMERS = 3000  # In each district; so many initial orders as well.
FIRST_UNDELIVERED = 2101

TABLES = (
    *("warehouse", "district", "customer", "history", "orders"),
    *("new_order", "order_line", "stock", "item"),
)

_CREATE = """
CREATE TABLE warehouse (
    w_id int PRIMARY KEY, w_name text, w_address text, w_tax numeric(4,4), w_ytd numeric(12,2));
CREATE TABLE district (
    d_w_id int, d_id int, d_name text, d_address text, d_tax numeric(4,4), d_ytd numeric(12,2),
    d_next_o_id int, PRIMARY KEY (d_w_id, d_id));
CREATE TABLE customer (
    c_w_id int, c_d_id int, c_id int, c_first text, c_middle text, c_last text, c_address text,
    c_phone text, c_since timestamp, c_credit text, c_credit_lim numeric(12,2),
    c_discount numeric(4,4), c_balance numeric(12,2), c_ytd_payment numeric(12,2),
    c_payment_cnt int, c_delivery_cnt int, c_data text, PRIMARY KEY (c_w_id, c_d_id, c_id));
CREATE INDEX customer_name ON customer (c_w_id, c_d_id, c_last, c_first);
CREATE TABLE history (
    h_c_id int, h_c_d_id int, h_c_w_id int, h_d_id int, h_w_id int, h_date timestamp,
    h_amount numeric(6,2), h_data text);
CREATE TABLE orders (
    o_w_id int, o_d_id int, o_id int, o_c_id int, o_entry_d timestamp, o_carrier_id int,
    o_ol_cnt int, o_all_local int, PRIMARY KEY (o_w_id, o_d_id, o_id));
CREATE INDEX orders_customer ON orders (o_w_id, o_d_id, o_c_id, o_id);
CREATE TABLE new_order (
    no_w_id int, no_d_id int, no_o_id int, PRIMARY KEY (no_w_id, no_d_id, no_o_id));
CREATE TABLE order_line (
    ol_w_id int, ol_d_id int, ol_o_id int, ol_number int, ol_i_id int, ol_supply_w_id int,
    ol_delivery_d timestamp, ol_quantity int, ol_amount numeric(6,2), ol_dist_info text,
    PRIMARY KEY (ol_w_id, ol_d_id, ol_o_id, ol_number));
CREATE TABLE stock (
    s_w_id int, s_i_id int, s_quantity int, s_dist text, s_ytd int, s_order_cnt int,
    s_remote_cnt int, s_data text, PRIMARY KEY (s_w_id, s_i_id));
CREATE TABLE item (
    i_id int PRIMARY KEY, i_im_id int, i_name text, i_price numeric(5,2), i_data text)
"""

# Customer names are three syllables of the specification, chosen by the digits of a number.
NAME_FUNCTION = """
CREATE OR REPLACE FUNCTION tpcc_name(number int) RETURNS text LANGUAGE sql IMMUTABLE AS $$
    SELECT string_agg((ARRAY['BAR','OUGHT','ABLE','PRI','PRES','ESE','ANTI','CALLY','ATION','EING'])
                      [1 + (number / power) % 10], '' ORDER BY power DESC)
    FROM unnest(ARRAY[100, 10, 1]) AS power
$$
"""

_FILL = f"""
INSERT INTO item SELECT i, i % 10000 + 1, left(md5(i::text), 20), 1 + (i * 7919 % 9900) / 100.0,
    md5((-i)::text) FROM generate_series(1, {ITEMS}) i;
INSERT INTO warehouse SELECT w, left(md5(w::text), 8), md5((-w)::text), 0.1, 300000
    FROM generate_series(1, %(w)s) w;
INSERT INTO district SELECT w, d, left(md5(d::text), 8), md5((-d)::text), 0.1, 30000,
    {CUSTOMERS + 1} FROM generate_series(1, %(w)s) w, generate_series(1, {DISTRICTS}) d;
INSERT INTO customer SELECT w, d, c, md5(c::text), 'OE',
    tpcc_name(CASE WHEN c <= 1000 THEN c - 1 ELSE c * 7919 % 1000 END),
    md5((-c)::text) || md5(d::text),
    '0123456789012345', timestamp '2020-01-01', CASE WHEN c % 10 = 0 THEN 'BC' ELSE 'GC' END, 50000,
    (c % 5000) / 10000.0, -10, 10, 1, 0, repeat(md5((c * d)::text), 12)
    FROM generate_series(1, %(w)s) w, generate_series(1, {DISTRICTS}) d,
         generate_series(1, {CUSTOMERS}) c;
INSERT INTO history SELECT c, d, w, d, w, timestamp '2020-01-01', 10, left(md5(c::text), 20)
    FROM generate_series(1, %(w)s) w, generate_series(1, {DISTRICTS}) d,
         generate_series(1, {CUSTOMERS}) c;
INSERT INTO orders SELECT w, d, o, o * 7919 % {CUSTOMERS} + 1, timestamp '2020-01-01',
    CASE WHEN o < {FIRST_UNDELIVERED} THEN o % 10 + 1 END, 5 + o % 11, 1
    FROM generate_series(1, %(w)s) w, generate_series(1, {DISTRICTS}) d,
         generate_series(1, {CUSTOMERS}) o;
INSERT INTO new_order SELECT o_w_id, o_d_id, o_id FROM orders WHERE o_carrier_id IS NULL;
INSERT INTO order_line SELECT o_w_id, o_d_id, o_id, n, (o_id * 7919 + n * 104729) % {ITEMS} + 1,
    o_w_id, CASE WHEN o_carrier_id IS NOT NULL THEN o_entry_d END, 5,
    CASE WHEN o_carrier_id IS NULL THEN (o_id * n % 9999 + 1) / 100.0 ELSE 0 END,
    left(md5((o_id + n)::text), 24)
    FROM orders, generate_series(1, o_ol_cnt) n;
INSERT INTO stock SELECT w, i, 10 + i % 91, repeat(left(md5(i::text), 24), 10), 0, 0, 0,
    md5((-i)::text) FROM generate_series(1, %(w)s) w, generate_series(1, {ITEMS}) i
"""

# Conditions 1 to 4 of clause 3.3.2: each query returns the districts that violate one.
_CONSISTENCY = (
    "SELECT w_id FROM warehouse JOIN district ON d_w_id = w_id "
    "GROUP BY w_id, w_ytd HAVING w_ytd <> sum(d_ytd)",
    "SELECT d_w_id, d_id FROM district JOIN orders ON o_w_id = d_w_id AND o_d_id = d_id "
    "GROUP BY d_w_id, d_id, d_next_o_id HAVING d_next_o_id - 1 <> max(o_id)",
    "SELECT no_w_id, no_d_id FROM new_order GROUP BY no_w_id, no_d_id "
    "HAVING max(no_o_id) - min(no_o_id) + 1 <> count(*)",
    "SELECT * FROM "
    "(SELECT o_w_id AS w, o_d_id AS d, sum(o_ol_cnt) AS n FROM orders GROUP BY 1, 2) o "
    "FULL JOIN "
    "(SELECT ol_w_id AS w, ol_d_id AS d, count(*) AS n FROM order_line GROUP BY 1, 2) l "
    "USING (w, d) WHERE o.n IS DISTINCT FROM l.n",
)


def create(connection: Connection, *, warehouses: int) -> None:
    """Create and fill all tables, about 100 MB for each warehouse."""
    execute(connection, f"DROP TABLE IF EXISTS {', '.join(TABLES)}")
    for statement in [NAME_FUNCTION, *_CREATE.split(";\n")]:
        execute(connection, statement)
    for statement in _FILL.replace("%(w)s", str(warehouses)).split(";\n"):
        execute(connection, statement)
    execute(connection, "VACUUM ANALYZE")


def require_consistent(connection: Connection, *, label: str) -> None:
    """Stop the run when tables contradict each other.

    Raises:
        ConsistencyError: naming the condition of the TPC-C specification.
    """
    for number, query in enumerate(_CONSISTENCY, start=1):
        if violations := fetch_all(connection, query):
            raise ConsistencyError(
                f"the TPC-C data of {label} violates condition {number}: {violations[:5]}"
            )
