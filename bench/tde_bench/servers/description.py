"""Describing servers and their data in a result, with warnings about what disturbs a run."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import asdict

from tde_bench.configurations import Configuration
from tde_bench.measure import metadata
from tde_bench.measure.result import BenchmarkResult
from tde_bench.servers import facts
from tde_bench.servers.canary import CanaryReport
from tde_bench.servers.existing import ExistingServer
from tde_bench.servers.server import Server

# Below this, much of the data stays in shared_buffers and the cipher has little to do.
MINIMUM_DATA_RATIO = 2.0


def describe_server(
    result: BenchmarkResult,
    server: Server,
    report: CanaryReport | None,
    *,
    moves_pages: bool = True,
) -> None:
    """Note what a server is, once it holds the benchmark's data.

    Args:
        result: receives the facts and warnings.
        server: a server that is up.
        report: what the search for the canary row found.
        moves_pages: warn when the data is not larger than shared_buffers.
    """
    configuration, pid = server.configuration, server.postmaster_pid
    with contextlib.closing(server.connect()) as connection:
        size = facts.database_bytes(connection)
        settings = facts.recorded_settings(connection)
        buffers = facts.shared_buffers_bytes(connection)
        version = facts.server_version(connection)
    if moves_pages and size < MINIMUM_DATA_RATIO * buffers:
        # All ephemeral clusters hold the same data, so they share one warning.
        owner = "" if configuration.dsn is None else f" of {configuration.label}"
        result.warn(
            f"The data{owner} is only {size / buffers:.1f} times "
            "shared_buffers: few pages move, so there is little to encrypt. Use a larger "
            "--scale or smaller --shared-buffers."
        )
    if not server.can_checkpoint:
        result.warn(
            f"{configuration.label}: no right to CHECKPOINT, so its rounds start and end "
            "with pages that are not written yet."
        )
    result.facts[configuration.name] = {
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


def encrypting_libraries(servers: Sequence[Server]) -> dict[Configuration, str | None]:
    """Return what the libcrypto of each server says of itself; None for servers elsewhere."""
    pids = {server.configuration: server.postmaster_pid for server in servers}
    return {
        configuration: None if pid is None else metadata.openssl_version(pid)
        for configuration, pid in pids.items()
    }


def disown_shared_servers(result: BenchmarkResult, servers: Sequence[Server]) -> None:
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
        result.warn(f"{labels} are on one server, whose CPU cannot be told apart: not measured.")


def compare_settings(result: BenchmarkResult) -> None:
    """Warn about servers that differ in more than encryption."""
    differing = facts.differing_settings(
        {name: fact["settings"] for name, fact in result.facts.items()}
    )
    if differing:
        result.warn(
            "The servers differ in more than encryption: "
            + "; ".join(f"{name}: {values}" for name, values in differing.items())
        )
