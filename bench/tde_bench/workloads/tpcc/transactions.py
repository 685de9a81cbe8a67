"""The five transactions of TPC-C, on one psycopg2 cursor.

Statements work on sets of rows where the specification loops over lines, as a program of today
would: one round trip for all items of an order. Rows are locked in the order of their keys, so
that sessions cannot wait for each other in a circle.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from psycopg2.extensions import cursor as Cursor
from psycopg2.extras import execute_values

from tde_bench.workloads.tpcc.schema import CUSTOMERS, DISTRICTS, ITEMS

Transaction = Callable[[Cursor, random.Random, int], bool]

# A constant of the specification's random function for each of the fields that it is used for.
_C_CUSTOMER, _C_ITEM, _C_NAME = 259, 7911, 173
_REMOTE_LINE, _REMOTE_CUSTOMER, _BY_NAME, _ROLLED_BACK = 0.01, 0.15, 0.60, 0.01
_SYLLABLES = ("BAR", "OUGHT", "ABLE", "PRI", "PRES", "ESE", "ANTI", "CALLY", "ATION", "EING")


def _skewed(chance: random.Random, mask: int, constant: int, low: int, high: int) -> int:
    """Return NURand of the specification: some values come far more often than others."""
    value = (chance.randint(0, mask) | chance.randint(low, high)) + constant
    return value % (high - low + 1) + low


def _customer_number(chance: random.Random) -> int:
    return _skewed(chance, 1023, _C_CUSTOMER, 1, CUSTOMERS)


def _last_name(chance: random.Random) -> str:
    number = _skewed(chance, 255, _C_NAME, 0, 999)
    return "".join(_SYLLABLES[int(digit)] for digit in f"{number:03d}")


def _other_warehouse(chance: random.Random, home: int, warehouses: int) -> int:
    if warehouses == 1:
        return home
    return (home - 1 + chance.randint(1, warehouses - 1)) % warehouses + 1


def _one(cursor: Cursor) -> tuple[Any, ...]:
    """Return the row that must be there."""
    row = cursor.fetchone()
    assert row is not None
    return row


def new_order(cursor: Cursor, chance: random.Random, warehouses: int) -> bool:
    """Order 5 to 15 items; in one of a hundred cases an item does not exist and all is undone."""
    home, district = chance.randint(1, warehouses), chance.randint(1, DISTRICTS)
    customer = _customer_number(chance)
    lines: dict[tuple[int, int], int] = {}
    for _ in range(chance.randint(5, 15)):
        remote = chance.random() < _REMOTE_LINE
        supplier = _other_warehouse(chance, home, warehouses) if remote else home
        item = _skewed(chance, 8191, _C_ITEM, 1, ITEMS)
        lines[supplier, item] = chance.randint(1, 10)
    fails = chance.random() < _ROLLED_BACK
    wanted = [item for _, item in lines] + ([ITEMS + 1] if fails else [])
    cursor.execute(
        "SELECT c_discount, c_last, c_credit, w_tax FROM customer JOIN warehouse ON w_id = c_w_id "
        "WHERE c_w_id = %s AND c_d_id = %s AND c_id = %s",
        (home, district, customer),
    )
    cursor.execute(
        "UPDATE district SET d_next_o_id = d_next_o_id + 1 WHERE d_w_id = %s AND d_id = %s "
        "RETURNING d_next_o_id - 1, d_tax",
        (home, district),
    )
    order = _one(cursor)[0]
    cursor.execute("SELECT i_id, i_price, i_name, i_data FROM item WHERE i_id = ANY(%s)", (wanted,))
    prices = {row[0]: row[1] for row in cursor.fetchall()}
    if fails:
        return False
    local = all(supplier == home for supplier, _ in lines)
    cursor.execute(
        "INSERT INTO orders VALUES (%s, %s, %s, %s, now(), NULL, %s, %s)",
        (home, district, order, customer, len(lines), int(local)),
    )
    cursor.execute("INSERT INTO new_order VALUES (%s, %s, %s)", (home, district, order))
    cursor.execute(
        "SELECT s_w_id, s_i_id, substr(s_dist, %s, 24) FROM stock "
        "WHERE (s_w_id, s_i_id) IN %s ORDER BY s_w_id, s_i_id FOR UPDATE",
        (24 * (district - 1) + 1, tuple(lines)),
    )
    information = {(row[0], row[1]): row[2] for row in cursor.fetchall()}
    execute_values(
        cursor,
        "UPDATE stock SET s_ytd = s_ytd + q, s_order_cnt = s_order_cnt + 1, "
        "s_remote_cnt = s_remote_cnt + r, "
        "s_quantity = s_quantity - q + CASE WHEN s_quantity - q < 10 THEN 91 ELSE 0 END "
        "FROM (VALUES %s) AS line (w, i, q, r) WHERE s_w_id = w AND s_i_id = i",
        [(w, i, quantity, int(w != home)) for (w, i), quantity in lines.items()],
    )
    execute_values(
        cursor,
        "INSERT INTO order_line VALUES %s",
        [
            (home, district, order, number, i, w, None, q, q * prices[i], information[w, i])
            for number, ((w, i), q) in enumerate(lines.items(), start=1)
        ],
    )
    return True


def _find_customer(cursor: Cursor, chance: random.Random, warehouse: int, district: int) -> int:
    """Return a customer's number, looked up by last name in 60 of 100 cases."""
    if chance.random() >= _BY_NAME:
        return _customer_number(chance)
    cursor.execute(
        "SELECT c_id FROM customer WHERE c_w_id = %s AND c_d_id = %s AND c_last = %s "
        "ORDER BY c_first",
        (warehouse, district, _last_name(chance)),
    )
    rows = cursor.fetchall()
    return int(rows[len(rows) // 2][0])


def payment(cursor: Cursor, chance: random.Random, warehouses: int) -> bool:
    """Take a customer's payment, in 15 of 100 cases of one of another warehouse."""
    home, district = chance.randint(1, warehouses), chance.randint(1, DISTRICTS)
    amount = chance.randint(100, 500_000) / 100
    customer_home, customer_district = home, district
    if chance.random() < _REMOTE_CUSTOMER:
        customer_home = _other_warehouse(chance, home, warehouses)
        customer_district = chance.randint(1, DISTRICTS)
    cursor.execute("UPDATE warehouse SET w_ytd = w_ytd + %s WHERE w_id = %s", (amount, home))
    cursor.execute(
        "UPDATE district SET d_ytd = d_ytd + %s WHERE d_w_id = %s AND d_id = %s",
        (amount, home, district),
    )
    customer = _find_customer(cursor, chance, customer_home, customer_district)
    cursor.execute(
        "UPDATE customer SET c_balance = c_balance - %(a)s, c_ytd_payment = c_ytd_payment + %(a)s, "
        "c_payment_cnt = c_payment_cnt + 1, c_data = CASE c_credit WHEN 'BC' THEN "
        "left(format('%%s %%s %%s %%s|', c_id, c_d_id, %(w)s, %(a)s) || c_data, 500) "
        "ELSE c_data END WHERE c_w_id = %(cw)s AND c_d_id = %(cd)s AND c_id = %(c)s",
        {"a": amount, "w": home, "cw": customer_home, "cd": customer_district, "c": customer},
    )
    cursor.execute(
        "INSERT INTO history VALUES (%s, %s, %s, %s, %s, now(), %s, 'payment')",
        (customer, customer_district, customer_home, district, home, min(amount, 9999)),
    )
    return True


def order_status(cursor: Cursor, chance: random.Random, warehouses: int) -> bool:
    """Show the last order of a customer."""
    home, district = chance.randint(1, warehouses), chance.randint(1, DISTRICTS)
    customer = _find_customer(cursor, chance, home, district)
    cursor.execute(
        "SELECT o_id FROM orders WHERE o_w_id = %s AND o_d_id = %s AND o_c_id = %s "
        "ORDER BY o_id DESC LIMIT 1",
        (home, district, customer),
    )
    if row := cursor.fetchone():
        cursor.execute(
            "SELECT ol_i_id, ol_supply_w_id, ol_quantity, ol_amount, ol_delivery_d FROM order_line "
            "WHERE ol_w_id = %s AND ol_d_id = %s AND ol_o_id = %s",
            (home, district, row[0]),
        )
        cursor.fetchall()
    return True


def delivery(cursor: Cursor, chance: random.Random, warehouses: int) -> bool:
    """Deliver the oldest new order of each district of a warehouse."""
    home, carrier = chance.randint(1, warehouses), chance.randint(1, 10)
    for district in range(1, DISTRICTS + 1):
        cursor.execute(
            "DELETE FROM new_order WHERE no_w_id = %(w)s AND no_d_id = %(d)s AND no_o_id = "
            "(SELECT no_o_id FROM new_order WHERE no_w_id = %(w)s AND no_d_id = %(d)s "
            "ORDER BY no_o_id LIMIT 1 FOR UPDATE) RETURNING no_o_id",
            {"w": home, "d": district},
        )
        row = cursor.fetchone()
        if row is None:
            continue
        key = (home, district, row[0])
        cursor.execute(
            "UPDATE orders SET o_carrier_id = %s WHERE o_w_id = %s AND o_d_id = %s AND o_id = %s "
            "RETURNING o_c_id",
            (carrier, *key),
        )
        (customer,) = _one(cursor)
        cursor.execute(
            "WITH delivered AS (UPDATE order_line SET ol_delivery_d = now() "
            "WHERE ol_w_id = %s AND ol_d_id = %s AND ol_o_id = %s RETURNING ol_amount) "
            "UPDATE customer SET c_balance = c_balance + (SELECT sum(ol_amount) FROM delivered), "
            "c_delivery_cnt = c_delivery_cnt + 1 WHERE c_w_id = %s AND c_d_id = %s AND c_id = %s",
            (*key, home, district, customer),
        )
    return True


def stock_level(cursor: Cursor, chance: random.Random, warehouses: int) -> bool:
    """Count the items of a district's last 20 orders of which little is left."""
    home, district = chance.randint(1, warehouses), chance.randint(1, DISTRICTS)
    cursor.execute(
        "SELECT count(DISTINCT s_i_id) FROM district "
        "JOIN order_line ON ol_w_id = d_w_id AND ol_d_id = d_id "
        "AND ol_o_id >= d_next_o_id - 20 AND ol_o_id < d_next_o_id "
        "JOIN stock ON s_w_id = d_w_id AND s_i_id = ol_i_id "
        "WHERE d_w_id = %s AND d_id = %s AND s_quantity < %s",
        (home, district, chance.randint(10, 20)),
    )
    _one(cursor)
    return True


# The least shares that the specification allows for all but the first, which gets the rest.
MIX: tuple[tuple[Transaction, int], ...] = (
    (new_order, 45),
    (payment, 43),
    (order_status, 4),
    (delivery, 4),
    (stock_level, 4),
)
