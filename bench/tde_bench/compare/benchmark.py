"""Running the peers side by side, as ``oltp`` runs its configurations."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil
import psycopg2

from tde.errors import TdeError
from tde.postgres import PostgresBinaries
from tde.postgres.server.os_user import server_os_user
from tde_bench.compare.peers import Peer
from tde_bench.compare.results import CompareResult
from tde_bench.compare.volumes import Volume, gocryptfs, luks
from tde_bench.compare.workload import PeerWorkload
from tde_bench.configurations import GOCRYPTFS, LUKS, Configuration
from tde_bench.errors import BenchError, CanaryError
from tde_bench.measure.machine import describe_filesystem
from tde_bench.measure.observer import Observer
from tde_bench.measure.schedule import Slot
from tde_bench.oltp.benchmark import OltpBenchmark
from tde_bench.oltp.parameters import OltpParameters
from tde_bench.oltp.results import OltpRun, Point
from tde_bench.oltp.sliced_turn import SlicedTurn
from tde_bench.servers.ephemeral import EphemeralServer
from tde_bench.servers.existing import ExistingServer
from tde_bench.servers.running import Place, closing_all
from tde_bench.servers.server import Server
from tde_bench.servers.workspace import give_to, workspace
from tde_bench.workloads.base import Driver

_VOLUMES = {GOCRYPTFS: gocryptfs, LUKS: luks}

# How a server, or the filesystem below it, fails.
_FAILURES = (TdeError, psycopg2.Error, psutil.Error, OSError)


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
        able = [peer.configuration for peer in peers if peer.reason is None]
        super().__init__(able, parameters, observer, lambda result: save(self.result))
        self._workload = PeerWorkload(self.result.labels)
        # Those that are to be closed at the end.
        self._servers: list[Server] = []
        self.result = CompareResult(
            **vars(self.result),
            unavailable={
                peer.configuration.name: (peer.configuration.label, peer.reason)
                for peer in peers
                if peer.reason is not None
            },
            notes={peer.configuration.name: peer.note for peer in peers if peer.note is not None},
        )

    def run_peers(self, binaries: PostgresBinaries, directory: Path | None) -> None:
        """Run everything; :attr:`result` holds what was measured, also after an exception.

        A peer that fails before the first round is left out, with its reason.

        Raises:
            BenchError: when the plain server cannot run, a server fails in the middle of rounds,
                or results could not be trusted.
            KeyboardInterrupt: after an interruption, once servers, mounts and files are gone.
        """
        self._run_with(binaries, directory, keep=False)

    def _prepare(
        self, drivers: Sequence[Driver], step: Callable[[Driver], None]
    ) -> Sequence[Driver]:
        """Leave out the peers that do not manage a step before the rounds."""
        for driver in drivers:
            with self._leaving_out(driver.server.configuration):
                step(driver)
        return [driver for driver in drivers if driver.server in self._servers]

    def _check(self, server: Server) -> None:
        """Look for the canary row where the server itself decides what is on disk."""
        if not isinstance(server, VolumeServer):
            super()._check(server)
            return
        label = server.configuration.label
        self._observer.note(f"{label}: encrypted below the server, no canary row looked for")
        self._canaries[server.configuration.name] = None

    def _begin(self, slot: Slot[Driver], point: Point, stack: ExitStack) -> SlicedTurn:
        with _naming(slot.item.server.configuration):
            return super()._begin(slot, point, stack)

    def _measure_slice(self, turn: SlicedTurn, number: int, seconds: int) -> None:
        with _naming(turn.driver.server.configuration):
            super()._measure_slice(turn, number, seconds)

    def _end(self, turn: SlicedTurn) -> OltpRun:
        with _naming(turn.driver.server.configuration):
            return super()._end(turn)

    @contextmanager
    def _running(self, place: Place) -> Iterator[Sequence[Server]]:
        """Start a server per peer; on the way out stop them, unmount, and remove their files."""
        with ExitStack() as stack:
            folder = stack.enter_context(workspace(place.parent, keep=place.keep))
            describe_filesystem(self.result, folder)
            volumes: dict[str, Volume] = {}
            for configuration in [c for c in self._configurations if c.name in _VOLUMES]:
                with self._leaving_out(configuration):
                    make = _VOLUMES[configuration.name]
                    volumes[configuration.name] = stack.enter_context(make(folder))
            # Entered last and so left first: a mount with a running server cannot be undone.
            stack.enter_context(closing_all(self._servers, self._observer))
            for configuration in self._configurations:
                self._observer.step(f"starting {configuration.label}")
                with self._leaving_out(configuration):
                    if configuration.dsn is not None:
                        existing = ExistingServer(configuration)
                        self._servers.append(existing)
                        existing.start()
                        continue
                    server = _ephemeral(configuration, folder, place.binaries, volumes)
                    self._servers.append(server)
                    server.start(place.settings, keep=place.keep)
            yield self._servers

    @contextmanager
    def _leaving_out(self, configuration: Configuration) -> Iterator[None]:
        """Leave a peer out of the run when the ``with`` block fails.

        Raises:
            BenchError: when it is the baseline, without which there is nothing to compare.
            CanaryError: when plaintext was found where there must be none, which nobody should
                learn from a footnote.
        """
        try:
            with _naming(configuration):
                yield
        except CanaryError:
            raise
        except BenchError as error:
            if configuration.name == self.result.baseline:
                raise
            self._close(configuration)
            self._give_up(configuration, error)

    def _close(self, configuration: Configuration) -> None:
        """Close the server of a peer that failed, if it has one, so that it disturbs no other."""
        for server in [s for s in self._servers if s.configuration is configuration]:
            try:
                with _naming(configuration):
                    server.close()
            except BenchError as error:
                self.result.warn(f"What was made for a peer may be left behind. {error}")
            # Not before, because an interruption of its end must not make it forgotten.
            self._servers.remove(server)

    def _give_up(self, configuration: Configuration, error: BenchError) -> None:
        """Move a peer to those that are not measured, with the reason in one line."""
        name = configuration.name
        label = self.result.labels.pop(name)
        self.result.facts.pop(name, None)
        remedy = f" ({error.remedy})" if error.remedy else ""
        reason = " ".join(f"{error}{remedy}".removeprefix(f"{label}: ").split())
        self.result.unavailable[name] = (label, reason.rstrip("."))
        self._configurations = [c for c in self._configurations if c is not configuration]
        self._observer.note(f"{label}: not measured, the reason is in the report")


@contextmanager
def _naming(configuration: Configuration) -> Iterator[None]:
    """SlicedTurn every way in which a server fails into an error that names it.

    Raises:
        BenchError: when the ``with`` block fails.
    """
    try:
        yield
    except CanaryError:
        raise
    except _FAILURES as error:
        prefix = f"{configuration.label}: "
        reason = str(error).strip().removeprefix(prefix)
        remedy = error.remedy if isinstance(error, TdeError) else ""
        raise BenchError(f"{prefix}{reason}", remedy=remedy) from error


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
