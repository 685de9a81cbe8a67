"""Running the peers side by side, as ``oltp`` runs its configurations."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tde.postgres import PostgresBinaries
from tde.postgres.os_user import server_os_user
from tde_bench.compare.peers import GOCRYPTFS, LUKS, Peer
from tde_bench.compare.results import CompareResult
from tde_bench.compare.volumes import Volume, gocryptfs, luks
from tde_bench.compare.workload import PeerWorkload
from tde_bench.configurations import Configuration
from tde_bench.errors import BenchError
from tde_bench.machine import describe_filesystem, describe_machine
from tde_bench.oltp import OltpBenchmark
from tde_bench.parameters import OltpParameters
from tde_bench.progress import Observer
from tde_bench.runner import closing_all
from tde_bench.servers import EphemeralServer, ExistingServer, Server, server_settings
from tde_bench.workloads import Driver
from tde_bench.workspace import give_to, workspace

_VOLUMES = {GOCRYPTFS: gocryptfs, LUKS: luks}


class VolumeServer(EphemeralServer):
    """A plain cluster on an encrypted volume."""

    def __init__(
        self,
        configuration: Configuration,
        folder: Path,
        binaries: PostgresBinaries,
        volume: Volume,
    ) -> None:
        super().__init__(configuration, folder, binaries)
        self._volume = volume

    @property
    def helper_pids(self) -> tuple[int, ...]:
        """The processes of the volume."""
        return self._volume.pids

    @property
    def postmaster_pid(self) -> int | None:
        """None where the kernel works for the volume: the CPU of processes would mislead."""
        return None if self._volume.kernel_threads else super().postmaster_pid


class CompareBenchmark(OltpBenchmark):
    """One run of the comparison; a peer that cannot run is part of the result, with its reason."""

    result: CompareResult

    def __init__(
        self,
        peers: Sequence[Peer],
        parameters: OltpParameters,
        observer: Observer,
        save: Callable[[CompareResult], None],
    ) -> None:
        able = [peer for peer in peers if peer.reason is None]
        super().__init__(
            [peer.configuration for peer in able],
            parameters,
            observer,
            lambda result: save(self.result),
        )
        self._workload = PeerWorkload(self.result.labels)
        self.result = CompareResult(
            parameters=self.result.parameters,
            labels=self.result.labels,
            unavailable={
                peer.configuration.name: (peer.configuration.label, peer.reason)
                for peer in peers
                if peer.reason is not None
            },
            notes={peer.configuration.name: peer.note for peer in peers if peer.note is not None},
        )

    def run_peers(self, binaries: PostgresBinaries, directory: Path | None) -> None:
        """Run everything; :attr:`result` holds what was measured, also after an exception.

        Raises:
            BenchError: when the run cannot start or its results could not be trusted.
            KeyboardInterrupt: after an interruption, once servers, mounts and files are gone.
        """
        self.result.status = "failed"
        try:
            describe_machine(self.result)
            with self._running(binaries, directory) as servers:
                program = binaries.program("pgbench")
                self._measure_all([Driver(server, program) for server in servers])
            self.result.status = "complete"
        except KeyboardInterrupt:
            self.result.status = "interrupted"
            raise
        finally:
            self._save(self.result)

    def _check(self, server: Server) -> None:
        """Look for the canary row where the server itself decides what is on disk."""
        if not isinstance(server, VolumeServer):
            super()._check(server)
            return
        label = server.configuration.label
        self._observer.note(f"{label}: encrypted below the server, no canary row looked for")
        self._canaries[server.configuration.name] = None

    @contextmanager
    def _running(
        self, binaries: PostgresBinaries, directory: Path | None
    ) -> Iterator[Sequence[Server]]:
        """Start a server per peer; on the way out stop them, unmount, and remove their files."""
        parameters = self._parameters
        settings = server_settings(parameters.shared_buffers, max(parameters.clients))
        with ExitStack() as stack:
            folder = stack.enter_context(workspace(directory, keep=False))
            describe_filesystem(self.result, folder)
            servers: list[Server] = []
            volumes: dict[str, Volume] = {}
            for name in [c.name for c in self._configurations if c.name in _VOLUMES]:
                try:
                    volumes[name] = stack.enter_context(_VOLUMES[name](folder))
                except BenchError as error:
                    self._give_up(name, str(error))
            # Entered last and so left first: a mount with a running server cannot be undone.
            stack.enter_context(closing_all(servers, self._observer))
            for configuration in self._configurations:
                self._observer.step(f"starting {configuration.label}")
                if configuration.dsn is not None:
                    existing = ExistingServer(configuration)
                    servers.append(existing)
                    existing.start()
                    continue
                server = _ephemeral(configuration, folder, binaries, volumes)
                servers.append(server)
                server.start(settings, keep=False)
            yield servers

    def _give_up(self, name: str, reason: str) -> None:
        """Leave out a peer whose volume could not be made."""
        label = self.result.labels.pop(name)
        self.result.unavailable[name] = (label, reason)
        self._configurations = [c for c in self._configurations if c.name != name]


def _ephemeral(
    configuration: Configuration,
    folder: Path,
    binaries: PostgresBinaries,
    volumes: dict[str, Volume],
) -> EphemeralServer:
    volume = volumes.get(configuration.name)
    if volume is None:
        return EphemeralServer(configuration, folder / configuration.name, binaries)
    give_to(volume.mount_point, server_os_user(None))
    return VolumeServer(configuration, volume.mount_point / "cluster", binaries, volume)
