"""Every workload of ``oltp`` on a real server: it runs, confirms what it did, and notices loss."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest
from tde_bench.configurations import NO_ENCRYPTION
from tde_bench.errors import BenchError, ConsistencyError
from tde_bench.servers.database import execute, fetch_value
from tde_bench.servers.ephemeral import EphemeralServer, ephemeral_settings
from tde_bench.servers.workspace import workspace
from tde_bench.workloads.base import Driver, Load, LoadOptions
from tde_bench.workloads.catalogue import workload
from tde_bench.workloads.names import WorkloadName

from tde.postgres import find_binaries


@pytest.fixture(scope="module")
def driver() -> Iterator[Driver]:
    """A plain server that does not wait for the disk, which decides nothing here."""
    binaries = find_binaries()
    with workspace(None, keep=False) as folder:
        server = EphemeralServer(NO_ENCRYPTION, folder / "none", binaries)
        try:
            server.start({**ephemeral_settings("16MB"), "fsync": "off"}, keep=False)
            yield Driver(server, binaries.program("pgbench"))
        finally:
            server.close()


def _run(driver: Driver, name: WorkloadName, options: LoadOptions | None = None) -> Load:
    return workload(name).run(
        driver,
        options or LoadOptions(clients=3, jobs=2),
        scale=1,
        seconds=1,
        seed=1,
        on_progress=lambda elapsed, tps: None,
    )


# What makes each workload's data contradict its transactions; nothing for the one that only reads.
_DAMAGE = {
    WorkloadName.TPCB: "DELETE FROM pgbench_history WHERE ctid = '(0,1)'",
    WorkloadName.SELECT_ONLY: "UPDATE pgbench_accounts SET abalance = 1 WHERE aid = 1",
    WorkloadName.SIMPLE_UPDATE: "UPDATE pgbench_accounts SET abalance = abalance + 1 WHERE aid = 1",
    WorkloadName.RANDOM_UPDATE: "UPDATE pgbench_accounts SET abalance = -100000000 WHERE aid = 1",
    WorkloadName.WAL_INSERT: "DELETE FROM tde_bench_inserts",
    WorkloadName.CONNECT: "UPDATE pgbench_accounts SET abalance = 1 WHERE aid = 1",
    WorkloadName.MANY_RELATIONS: "UPDATE tde_bench_many.t999 SET n = 0",
    WorkloadName.PARTITIONS: "DELETE FROM tde_bench_parts WHERE n = 7",
    WorkloadName.TPCC: "DELETE FROM order_line WHERE ol_o_id = 3000 AND ol_d_id = 7",
}


@pytest.mark.parametrize("name", list(WorkloadName), ids=lambda name: name.value)
def test_workload(driver: Driver, name: WorkloadName) -> None:
    chosen = workload(name)
    chosen.set_up(driver, 1)
    with contextlib.closing(driver.server.connect()) as connection:
        chosen.settle(connection)
        load = _run(driver, name)
        done = load.summary.transactions
        assert done > 0
        assert load.latencies.size == done
        assert load.latencies.mean() > 0
        assert load.summary.tps == pytest.approx(done, rel=0.9)
        assert (load.tpm_c is not None) == (name is WorkloadName.TPCC)
        chosen.verify(connection, label="none", confirmed=done, in_turn=done)
        # A second turn starts from what the first one left.
        chosen.settle(connection)
        again = _run(driver, name).summary.transactions
        chosen.verify(connection, label="none", confirmed=done + again, in_turn=again)
        execute(connection, _DAMAGE[name])
        with pytest.raises(ConsistencyError, match="none"):
            chosen.verify(connection, label="none", confirmed=done + again, in_turn=again)


def test_tpcc_does_what_it_counts_and_reports_failures(driver: Driver) -> None:
    """New orders and payments make up most of the load, and what they did is in the tables."""
    workload(WorkloadName.TPCC).set_up(driver, 1)
    load = _run(driver, WorkloadName.TPCC, LoadOptions(clients=1, jobs=1))
    assert load.tpm_c is not None
    with contextlib.closing(driver.server.connect()) as connection:
        orders, payments, delivered = (
            int(fetch_value(connection, f"SELECT count(*) FROM {condition}"))
            for condition in (
                "orders WHERE o_entry_d > '2021-01-01'",
                "history WHERE h_date > '2021-01-01'",
                "orders WHERE o_id > 2100 AND o_carrier_id > 0",
            )
        )
        assert orders > 0
        assert payments > 0
        # One delivery is a transaction for up to ten districts.
        assert orders + payments + delivered // 10 <= load.summary.transactions
        execute(connection, "DROP TABLE stock")
    with pytest.raises(BenchError, match='relation "stock" does not exist'):
        _run(driver, WorkloadName.TPCC)


@pytest.mark.parametrize("protocol", ["simple", "extended", "prepared"])
def test_rate_and_protocol(driver: Driver, protocol: str) -> None:
    workload(WorkloadName.SELECT_ONLY).set_up(driver, 1)
    options = LoadOptions(clients=2, jobs=1, protocol=protocol, rate=20)
    load = _run(driver, WorkloadName.SELECT_ONLY, options)
    # Without the rate, thousands.
    assert 0 < load.summary.transactions < 100
