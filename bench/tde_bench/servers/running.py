"""Starting the servers of a run, keeping them all up, and ending them whatever happens."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tde.postgres import PostgresBinaries
from tde_bench.configurations import Configuration
from tde_bench.measure.observer import Observer
from tde_bench.measure.signals import signals_wait
from tde_bench.servers.ephemeral import EphemeralServer
from tde_bench.servers.existing import ExistingServer
from tde_bench.servers.server import Server
from tde_bench.servers.workspace import workspace


@dataclass(frozen=True)
class Place:
    """Where and with which programs ephemeral clusters are made.

    Attributes:
        parent: the directory to work in, None to choose one.
        binaries: the PostgreSQL installation.
        settings: the settings of every cluster.
        keep: leave the clusters behind, stopped.
    """

    parent: Path | None
    binaries: PostgresBinaries
    settings: Mapping[str, str]
    keep: bool


@dataclass(frozen=True)
class Running:
    """All servers of a run, up, in the order of the configurations.

    Attributes:
        folder: the directory of the ephemeral clusters, None when there are none.
        servers: every one of them has an empty database for the benchmark.
    """

    folder: Path | None
    servers: tuple[Server, ...]


@contextmanager
def running_servers(
    configurations: Sequence[Configuration], place: Place, observer: Observer
) -> Iterator[Running]:
    """Start a server per configuration; on the way out stop them and remove their files.

    All servers are up at the same time. Idle ones cost next to nothing: their settings leave them
    no background work to do.
    """
    with ExitStack() as stack:
        folder = None
        if any(configuration.dsn is None for configuration in configurations):
            folder = stack.enter_context(workspace(place.parent, keep=place.keep))
        servers: list[Server] = []
        # Entered last and so left first: servers are stopped before their files are removed.
        stack.enter_context(closing_all(servers, observer))
        for configuration in configurations:
            observer.step(f"starting {configuration.label}")
            if configuration.dsn is not None:
                existing = ExistingServer(configuration)
                servers.append(existing)
                existing.start()
            else:
                assert folder is not None
                ephemeral = EphemeralServer(
                    configuration, folder / configuration.name, place.binaries
                )
                servers.append(ephemeral)
                ephemeral.start(place.settings, keep=place.keep)
        yield Running(folder, tuple(servers))
        if place.keep and folder is not None:
            observer.note(f"the clusters are kept in {folder}")


@contextmanager
def closing_all(servers: Sequence[Server], observer: Observer) -> Iterator[None]:
    """Close every server in the list at the end, even when closing one of them fails."""
    try:
        yield
    finally:
        with signals_wait(), ExitStack() as stack:
            observer.step("stopping the servers")
            for server in servers:
                stack.callback(server.close)
