"""The workloads of ``tde-bench oltp``."""

from __future__ import annotations

from tde_bench.workload_names import WorkloadName
from tde_bench.workloads.base import Driver, Load, LoadOptions, Workload
from tde_bench.workloads.random_update import RandomUpdate
from tde_bench.workloads.tpcb import SelectOnly, SimpleUpdate, TpcB
from tde_bench.workloads.tpcc import TpcC
from tde_bench.workloads.wal_insert import WalInsert

__all__ = ["Driver", "Load", "LoadOptions", "Workload", "WorkloadName", "workload"]


_CLASSES: dict[WorkloadName, type[Workload]] = {
    WorkloadName.TPCB: TpcB,
    WorkloadName.SELECT_ONLY: SelectOnly,
    WorkloadName.SIMPLE_UPDATE: SimpleUpdate,
    WorkloadName.RANDOM_UPDATE: RandomUpdate,
    WorkloadName.WAL_INSERT: WalInsert,
    WorkloadName.TPCC: TpcC,
}


def workload(name: WorkloadName) -> Workload:
    """Return the workload of that name."""
    return _CLASSES[name]()
