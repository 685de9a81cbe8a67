"""The names of the workloads, apart from their code, which ``--help`` should not have to load."""

from __future__ import annotations

import enum


class WorkloadName(str, enum.Enum):
    """What ``--workload`` takes."""

    TPCB = "tpcb"
    SELECT_ONLY = "select-only"
    SIMPLE_UPDATE = "simple-update"
    RANDOM_UPDATE = "random-update"
    WAL_INSERT = "wal-insert"
    TPCC = "tpcc"
    CONNECT = "connect"
    MANY_RELATIONS = "many-relations"
    PARTITIONS = "partitions"
