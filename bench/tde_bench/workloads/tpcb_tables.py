"""The TPC-B tables of pgbench, and their sums, which must agree."""

from __future__ import annotations

from dataclasses import dataclass

from tde_bench.errors import ConsistencyError
from tde_bench.servers.database import Connection, fetch_row

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
