"""The workloads by their names."""

from __future__ import annotations

from tde_bench.workloads.base import Workload
from tde_bench.workloads.many_files import ManyRelations, Partitions
from tde_bench.workloads.names import WorkloadName
from tde_bench.workloads.random_update import RandomUpdate
from tde_bench.workloads.tpcb import Connect, SelectOnly, SimpleUpdate, TpcB
from tde_bench.workloads.tpcc.workload import TpcC
from tde_bench.workloads.wal_insert import WalInsert

_CLASSES: dict[WorkloadName, type[Workload]] = {
    WorkloadName.TPCB: TpcB,
    WorkloadName.SELECT_ONLY: SelectOnly,
    WorkloadName.SIMPLE_UPDATE: SimpleUpdate,
    WorkloadName.RANDOM_UPDATE: RandomUpdate,
    WorkloadName.WAL_INSERT: WalInsert,
    WorkloadName.TPCC: TpcC,
    WorkloadName.CONNECT: Connect,
    WorkloadName.MANY_RELATIONS: ManyRelations,
    WorkloadName.PARTITIONS: Partitions,
}


def workload(name: WorkloadName) -> Workload:
    """Return the workload of that name."""
    return _CLASSES[name]()
