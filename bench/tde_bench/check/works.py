"""The pieces of work whose cost is watched, on a server and on the page cipher alone."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tde import Algorithm
from tde_bench.errors import ConsistencyError
from tde_bench.pages.backends import PAGE_BYTES, TdeCore
from tde_bench.pages.benchmark import random_pages, time_work
from tde_bench.servers.database import Connection, execute, fetch_value

TABLE = "check_rows"
# About 51 MB, three times the shared_buffers of the check, so that pages have to move.
ROWS = 400_000
_SCANS = 8
_TRANSACTIONS = 2500
_BATCH_PAGES = 128
_SAMPLE_SECONDS = 0.25


@dataclass(frozen=True)
class ServerWork:
    """Deterministic work on the table; ``unit`` is what its CPU time is divided by.

    ``run`` gets the number of the round, which is the same for every server.
    """

    name: str
    label: str
    unit: str
    units: int
    run: Callable[[Connection, int], None]


@dataclass(frozen=True)
class CipherWork:
    """One direction of one algorithm of the page core, in batches of 1 MiB in place."""

    name: str
    label: str
    algorithm: Algorithm
    decrypt: bool

    def bytes_per_second(self) -> float:
        """Measure the core for a moment; bytes per CPU second."""
        pages = random_pages(_BATCH_PAGES)
        work = TdeCore().prepare(self.algorithm, pages, pages, decrypt=self.decrypt, threads=1)
        moved, _, spent = time_work(work, _BATCH_PAGES * PAGE_BYTES, _SAMPLE_SECONDS)
        return moved / spent


def create_table(connection: Connection) -> None:
    """Make the same rows on every server."""
    execute(connection, f"CREATE TABLE {TABLE} (id int, n int, filler text)")
    execute(
        connection,
        f"INSERT INTO {TABLE} SELECT g, 0, repeat(md5(g::text), 3) "
        f"FROM generate_series(1, {ROWS}) g",
    )
    execute(connection, f"ALTER TABLE {TABLE} ADD PRIMARY KEY (id)")


def settle(connection: Connection) -> None:
    """Bring the table to the state in which every turn starts."""
    execute(connection, f"VACUUM {TABLE}")
    execute(connection, "CHECKPOINT")


def _scan(connection: Connection, number: int) -> None:
    for _ in range(_SCANS):
        rows = fetch_value(connection, f"SELECT count(filler) FROM {TABLE}")
        if rows != ROWS:
            raise ConsistencyError(f"the table holds {rows} rows and not {ROWS}")


def _rewrite(connection: Connection, number: int) -> None:
    execute(connection, f"UPDATE {TABLE} SET n = {number + 1} WHERE id % 2 = 0")
    execute(connection, "CHECKPOINT")


def _transactions(connection: Connection, number: int) -> None:
    """Change single rows all over the table, each in a transaction of its own."""
    execute(connection, f"PREPARE one (int) AS UPDATE {TABLE} SET n = n + 1 WHERE id = $1")
    for row in random.Random(number).sample(range(1, ROWS + 1), _TRANSACTIONS):
        execute(connection, f"EXECUTE one ({row})")
    execute(connection, "DEALLOCATE one")
    execute(connection, "CHECKPOINT")


def server_works() -> Sequence[ServerWork]:
    """Return the work on servers: reading, rewriting and short transactions."""
    return (
        ServerWork("scan", "scan", "row", _SCANS * ROWS, _scan),
        ServerWork("update", "rewrite", "row", ROWS // 2, _rewrite),
        ServerWork(
            "transactions",
            "transactions",
            "transaction",
            _TRANSACTIONS,
            _transactions,
        ),
    )


def cipher_works() -> Sequence[CipherWork]:
    """Return the work on the page core."""
    return (
        CipherWork("encrypt-aes128", "encrypt AES-128", Algorithm.AES128, False),
        CipherWork("encrypt-aes256", "encrypt AES-256", Algorithm.AES256, False),
        CipherWork("decrypt-aes256", "decrypt AES-256", Algorithm.AES256, True),
    )
