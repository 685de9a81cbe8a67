"""The TPC-B tables of pgbench: bringing them to a comparable state, and checking their sums."""

from __future__ import annotations

from dataclasses import dataclass

from tde_bench.errors import ConsistencyError
from tde_bench.servers.database import Connection, execute, fetch_row, fetch_value

TABLES = ("pgbench_branches", "pgbench_tellers", "pgbench_accounts", "pgbench_history")

# Every transaction adds the same amount to one account, one teller and one branch and records
# it in the history, so all four sums agree after any number of whole transactions.
_SUMS = """
    SELECT (SELECT coalesce(sum(abalance), 0) FROM pgbench_accounts),
           (SELECT coalesce(sum(tbalance), 0) FROM pgbench_tellers),
           (SELECT coalesce(sum(bbalance), 0) FROM pgbench_branches),
           (SELECT coalesce(sum(delta), 0) FROM pgbench_history),
           (SELECT count(*) FROM pgbench_history)
"""


@dataclass(frozen=True)
class Sums:
    """The sums that TPC-B keeps equal, and the number of transactions in the history."""

    accounts: int
    tellers: int
    branches: int
    history: int
    transactions: int


def read_sums(connection: Connection) -> Sums:
    """Read all sums in one snapshot of the database."""
    return Sums(*(int(value) for value in fetch_row(connection, _SUMS)))


def require_consistent(sums: Sums, *, label: str, at_least: int) -> None:
    """Stop the run when the data contradicts the transactions.

    Args:
        sums: what the database holds.
        label: the configuration, for the message.
        at_least: the number of transactions that the server has confirmed so far.

    Raises:
        ConsistencyError: when sums differ or a confirmed transaction is missing.
    """
    if len({sums.accounts, sums.tellers, sums.branches, sums.history}) != 1:
        raise ConsistencyError(f"the TPC-B sums of {label} disagree: {sums}")
    if sums.transactions < at_least:
        raise ConsistencyError(
            f"{label} confirmed {at_least} transactions but holds {sums.transactions}"
        )


def write_checkpoint(connection: Connection) -> None:
    """Write all dirty buffers to disk."""
    execute(connection, "CHECKPOINT")


def database_bytes(connection: Connection) -> int:
    """Return the size of the connection's database on disk."""
    return int(fetch_value(connection, "SELECT pg_database_size(current_database())"))


def shared_buffers_bytes(connection: Connection) -> int:
    """Return the size of the server's buffer pool."""
    return int(fetch_value(connection, "SELECT pg_size_bytes(current_setting('shared_buffers'))"))


def server_version(connection: Connection) -> str:
    """Return the server's version as people write it, for example ``15.18 (Debian ...)``."""
    return str(fetch_value(connection, "SHOW server_version"))
