"""TPC-B for all peers, and its variant for columns that the application encrypts."""

from __future__ import annotations

import secrets
from typing import ClassVar

from tde_bench.configurations import PGCRYPTO
from tde_bench.errors import ConsistencyError
from tde_bench.servers.database import Connection, execute, fetch_row
from tde_bench.workloads.base import Driver, Load, LoadOptions, PgbenchWorkload, Progress, Workload
from tde_bench.workloads.tpcb import TpcB

# s2k-mode=1 salts the key and does not stretch it, which suits a random key. The default would
# hash some 65536 bytes for every value.
_OPTIONS = "cipher-algo=aes256, s2k-mode=1, compress-algo=0"

_SUMS = """
    SELECT (SELECT coalesce(sum(tde_bench_plain(tbalance)), 0) FROM pgbench_tellers),
           (SELECT coalesce(sum(tde_bench_plain(bbalance)), 0) FROM pgbench_branches),
           (SELECT coalesce(sum(tde_bench_plain(delta)), 0) FROM pgbench_history),
           (SELECT count(*) FROM pgbench_history)
"""

_SCRIPT = """\\set aid random(1, 100000 * {scale})
\\set bid random(1, {scale})
\\set tid random(1, 10 * {scale})
\\set delta random(-5000, 5000)
BEGIN;
UPDATE pgbench_accounts SET abalance = tde_bench_cipher(tde_bench_plain(abalance) + :delta)
    WHERE aid = :aid;
SELECT tde_bench_plain(abalance) FROM pgbench_accounts WHERE aid = :aid;
UPDATE pgbench_tellers SET tbalance = tde_bench_cipher(tde_bench_plain(tbalance) + :delta)
    WHERE tid = :tid;
UPDATE pgbench_branches SET bbalance = tde_bench_cipher(tde_bench_plain(bbalance) + :delta)
    WHERE bid = :bid;
INSERT INTO pgbench_history (tid, bid, aid, delta, mtime)
    VALUES (:tid, :bid, :aid, tde_bench_cipher(:delta), CURRENT_TIMESTAMP);
END;
"""


class EncryptedColumns(PgbenchWorkload):
    """pgbench's TPC-B script with pgcrypto around every balance."""

    title: ClassVar[str] = TpcB.title
    tables: ClassVar[tuple[str, ...]] = tuple(TpcB.tables)
    arguments: ClassVar[tuple[str, ...]] = ()

    def script(self, scale: int) -> str:
        """Return the transaction of TPC-B."""
        return _SCRIPT.format(scale=scale)

    def set_up(self, driver: Driver, scale: int) -> None:
        """Let pgbench create its tables and encrypt their columns."""
        driver.pgbench.initialize(scale)
        connection = driver.server.connect()
        try:
            for statement in _statements(secrets.token_hex(32)):
                execute(connection, statement)
        finally:
            connection.close()

    def verify(self, connection: Connection, *, label: str, confirmed: int, in_turn: int) -> None:
        """Compare the sums of the small tables; those of the accounts would take too long."""
        tellers, branches, history, count = fetch_row(connection, _SUMS)
        if not tellers == branches == history:
            raise ConsistencyError(f"the TPC-B sums of {label} disagree: {tellers}, {branches}")
        if count < confirmed:
            raise ConsistencyError(f"{label} confirmed {confirmed} transactions but holds {count}")


def _statements(key: str) -> list[str]:
    """Return what turns pgbench's tables into encrypted ones; the key lives in two functions."""

    def encrypted(table: str, *columns: str) -> str:
        changes = []
        for column in columns:
            value = f"tde_bench_cipher_text({column}::text)"
            changes.append(f"ALTER COLUMN {column} TYPE bytea USING {value}")
        return f"ALTER TABLE {table} {', '.join(changes)}"

    call = f"pgp_sym_encrypt($1, '{key}', '{_OPTIONS}')"
    return [
        "CREATE EXTENSION IF NOT EXISTS pgcrypto",
        "CREATE OR REPLACE FUNCTION tde_bench_cipher_text(text) RETURNS bytea "
        f"LANGUAGE sql AS $$ SELECT {call} $$",
        "CREATE OR REPLACE FUNCTION tde_bench_cipher(int) RETURNS bytea "
        f"LANGUAGE sql AS $$ SELECT {call.replace('$1', '$1::text')} $$",
        "CREATE OR REPLACE FUNCTION tde_bench_plain(bytea) RETURNS int "
        f"LANGUAGE sql AS $$ SELECT pgp_sym_decrypt($1, '{key}')::int $$",
        encrypted("pgbench_accounts", "abalance", "filler"),
        encrypted("pgbench_tellers", "tbalance"),
        encrypted("pgbench_branches", "bbalance"),
        encrypted("pgbench_history", "delta"),
    ]


class PeerWorkload(Workload):
    """The same transactions for every peer, in the form that it needs."""

    title: ClassVar[str] = TpcB.title
    tables: ClassVar[tuple[str, ...]] = tuple(TpcB.tables)

    def __init__(self, labels: dict[str, str]) -> None:
        self._plain = TpcB()
        self._columns = EncryptedColumns()
        self._columns_label = labels.get(PGCRYPTO)

    def _of(self, driver: Driver) -> Workload:
        return self._columns if driver.server.configuration.name == PGCRYPTO else self._plain

    def set_up(self, driver: Driver, scale: int) -> None:
        """Create the data of the peer's form."""
        self._of(driver).set_up(driver, scale)

    def run(
        self,
        driver: Driver,
        options: LoadOptions,
        *,
        scale: int,
        seconds: int,
        seed: int,
        on_progress: Progress,
    ) -> Load:
        """Drive the peer's form of the transactions."""
        return self._of(driver).run(
            driver, options, scale=scale, seconds=seconds, seed=seed, on_progress=on_progress
        )

    def verify(self, connection: Connection, *, label: str, confirmed: int, in_turn: int) -> None:
        """Check the sums in the peer's form."""
        chosen = self._columns if label == self._columns_label else self._plain
        chosen.verify(connection, label=label, confirmed=confirmed, in_turn=in_turn)
