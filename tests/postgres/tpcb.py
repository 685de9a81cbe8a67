"""pgbench, and what its transactions leave equal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tde.postgres import run_program

if TYPE_CHECKING:
    from tests.conftest import RunningCluster


def pgbench(cluster: RunningCluster, *arguments: str, timeout: float = 120) -> None:
    """Run pgbench to its end and expect success."""
    parameters = cluster.cluster.connection_parameters()
    run = run_program(
        cluster.cluster.binaries,
        "pgbench",
        [
            *("-h", str(parameters["host"]), "-p", str(parameters["port"])),
            *("-U", str(parameters["user"]), *arguments, "postgres"),
        ],
        os_user=cluster.cluster.os_user,
        timeout=timeout,
    )
    assert run.returncode == 0, run.stderr


def tpcb_sums(cluster: RunningCluster) -> set[int]:
    """Return the four sums that TPC-B keeps equal; a set of one when they are."""
    row = cluster.query(
        "SELECT (SELECT sum(abalance) FROM pgbench_accounts),"
        " (SELECT sum(bbalance) FROM pgbench_branches),"
        " (SELECT sum(tbalance) FROM pgbench_tellers),"
        " (SELECT coalesce(sum(delta), 0) FROM pgbench_history)"
    )[0]
    return set(row)
