"""Describing machine, servers and data in a result, with warnings about what disturbs a run."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import psutil

from tde_bench.measure import metadata
from tde_bench.measure.result import Outcome
from tde_bench.servers.canary import CanaryReport, stored_bytes
from tde_bench.servers.ephemeral import ExistingServer, Server
from tde_bench.workloads import tpcb_tables

# Below this, much of the data stays in shared_buffers and the cipher has little to do.
MINIMUM_DATA_RATIO = 2.0
# More than this percentage of the CPUs in use by others makes the figures doubtful.
BUSY_PERCENT = 25.0
# A hypervisor that withholds more of the CPUs than this disturbs the measurement.
MAXIMUM_STEAL = 0.01


def describe_machine(outcome: Outcome) -> None:
    """Note what the machine is and how busy; call it before the benchmark adds its own load."""
    outcome.metadata = metadata.collect(None)
    # The load average would still tell of a benchmark that has just ended.
    busy = psutil.cpu_percent(interval=1)
    outcome.metadata["busy_percent"] = busy
    if busy > BUSY_PERCENT:
        outcome.warn(
            f"The machine was busy before the run started: others used {busy:.0f} % of its CPUs."
        )
    if not outcome.metadata["cpu"]["aes_instructions"]:
        outcome.warn("This CPU has no AES instructions: encryption runs in software.")


def describe_filesystem(outcome: Outcome, folder: Path) -> None:
    """Note the filesystem of the clusters."""
    filesystem = metadata.filesystem_of(folder)
    outcome.metadata["filesystem"] = vars(filesystem)
    if filesystem.in_memory:
        outcome.warn(
            f"The clusters are on {filesystem.type}, in memory: there is no disk I/O, so "
            "encryption weighs more than it would on a disk."
        )


def describe_server(
    outcome: Outcome, server: Server, report: CanaryReport | None, *, moves_pages: bool = True
) -> None:
    """Note what a server is, once it holds the benchmark's data.

    Args:
        outcome: receives the facts and warnings.
        server: a server that is up.
        report: what the search for the canary row found.
        moves_pages: warn when the data is not larger than shared_buffers.
    """
    configuration, pid = server.configuration, server.postmaster_pid
    with contextlib.closing(server.connect()) as connection:
        size = tpcb_tables.database_bytes(connection)
        settings = metadata.server_settings(connection)
        buffers = tpcb_tables.shared_buffers_bytes(connection)
        version = tpcb_tables.server_version(connection)
    if moves_pages and size < MINIMUM_DATA_RATIO * buffers:
        # All ephemeral clusters hold the same data, so they share one warning.
        owner = "" if configuration.dsn is None else f" of {configuration.label}"
        outcome.warn(
            f"The data{owner} is only {size / buffers:.1f} times "
            "shared_buffers: few pages move, so there is little to encrypt. Use a larger "
            "--scale or smaller --shared-buffers."
        )
    if not server.can_checkpoint:
        outcome.warn(
            f"{configuration.label}: no right to CHECKPOINT, so its rounds start and end "
            "with pages that are not written yet."
        )
    outcome.facts[configuration.name] = {
        "algorithm": configuration.algorithm.label if configuration.algorithm else None,
        "software": configuration.software,
        "ephemeral": configuration.dsn is None,
        "canary": None if report is None else asdict(report),
        "database_bytes": size,
        "shared_buffers_bytes": buffers,
        "server_version": version,
        # Of a server elsewhere it is not known.
        "openssl": None if pid is None else metadata.openssl_version(pid),
        "settings": settings,
    }


def disown_shared_servers(outcome: Outcome, servers: Sequence[Server]) -> None:
    """Measure no CPU where two configurations use one server, and warn of it.

    Its processes work for both, so each would be charged with the load of the other one too.
    """
    by_pid: dict[int, list[ExistingServer]] = {}
    for server in servers:
        if isinstance(server, ExistingServer) and (pid := server.postmaster_pid) is not None:
            by_pid.setdefault(pid, []).append(server)
    for shared in by_pid.values():
        if len(shared) < 2:
            continue
        for server in shared:
            server.disown_processes()
        labels = " and ".join(server.configuration.label for server in shared)
        outcome.warn(f"{labels} are on one server, whose CPU cannot be told apart: not measured.")


def compare_settings(outcome: Outcome) -> None:
    """Warn about servers that differ in more than encryption."""
    differing = metadata.differing_settings(
        {name: fact["settings"] for name, fact in outcome.facts.items()}
    )
    if differing:
        outcome.warn(
            "The servers differ in more than encryption: "
            + "; ".join(f"{name}: {values}" for name, values in differing.items())
        )


def check_steal(outcome: Outcome, stolen: float, seconds: float) -> None:
    """Warn when the hypervisor withheld too much.

    Args:
        outcome: receives the warning.
        stolen: CPU seconds withheld from this machine while something was measured.
        seconds: how long something was measured.
    """
    available = seconds * (psutil.cpu_count() or 1)
    if stolen > MAXIMUM_STEAL * available:
        outcome.warn(
            f"The hypervisor withheld {stolen / available:.1%} of the CPU time during the "
            "measurement."
        )


def describe_search(server: Server) -> str:
    """Say what looking for the canary row means; call it before.

    All files of the user's own server are read, which takes long and can disturb others.
    """
    text = "looking for a canary row on disk"
    if server.configuration.dsn is None or server.data_directory is None:
        return text
    return f"{text}, in {stored_bytes(server.data_directory) / 1e9:.1f} GB of files"


def describe_canary(report: CanaryReport | None) -> str:
    """Say in one sentence what the search for the canary row found."""
    if report is None:
        return "canary not checked: the server's files cannot be searched from here"
    if report.not_checked is not None:
        return f"canary not checked: {report.not_checked}"
    if report.found:
        return f"the canary row is in plaintext on disk ({', '.join(report.found)})"
    return (
        f"no plaintext of the canary row in {report.files_searched} files "
        f"({report.bytes_searched / 1e6:.0f} MB)"
    )
