"""Describing the machine in a result, with warnings about what disturbs a run."""

from __future__ import annotations

from pathlib import Path

import psutil

from tde_bench.measure import metadata
from tde_bench.measure.result import BenchmarkResult

# More than this percentage of the CPUs in use by others makes the figures doubtful.
BUSY_PERCENT = 25.0
# A hypervisor that withholds more of the CPUs than this disturbs the measurement.
MAXIMUM_STEAL = 0.01


def describe_machine(result: BenchmarkResult) -> None:
    """Note what the machine is and how busy; call it before the benchmark adds its own load."""
    result.metadata = metadata.collect(None)
    # The load average would still tell of a benchmark that has just ended.
    busy = psutil.cpu_percent(interval=1)
    result.metadata["busy_percent"] = busy
    if busy > BUSY_PERCENT:
        result.warn(
            f"The machine was busy before the run started: others used {busy:.0f} % of its CPUs."
        )
    if not result.metadata["cpu"]["aes_instructions"]:
        result.warn("This CPU has no AES instructions: encryption runs in software.")


def describe_filesystem(result: BenchmarkResult, folder: Path) -> None:
    """Note the filesystem of the clusters."""
    filesystem = metadata.filesystem_of(folder)
    result.metadata["filesystem"] = vars(filesystem)
    if filesystem.in_memory:
        result.warn(
            f"The clusters are on {filesystem.type}, in memory: there is no disk I/O, so "
            "encryption weighs more than it would on a disk."
        )


def check_steal(result: BenchmarkResult, stolen: float, seconds: float) -> None:
    """Warn when the hypervisor withheld too much.

    Args:
        result: receives the warning.
        stolen: CPU seconds withheld from this machine while something was measured.
        seconds: how long something was measured.
    """
    available = seconds * (psutil.cpu_count() or 1)
    if stolen > MAXIMUM_STEAL * available:
        result.warn(
            f"The hypervisor withheld {stolen / available:.1%} of the CPU time during the "
            "measurement."
        )
