"""Examined things: a machine, an installation and perhaps a cluster with its server."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tde.doctor.archiver import Archiver
from tde.doctor.settings import Settings
from tde.errors import PostgresError, TdeError
from tde.machine.checks import ServerProcess
from tde.machine.kernel_files import MachineFiles
from tde.machine.process_files import forbids_access
from tde.postgres.cluster.cluster import Cluster
from tde.postgres.cluster.marker import Marker
from tde.postgres.server.binaries import PostgresBinaries
from tde.postgres.server.os_user import OsUser
from tde.postgres.server.published import read_published_status
from tde.postgres.tablespace.plain_copies import PlainCopies

AS_OWNER = "Run this as the owner of the data directory, or as root."


@dataclass(frozen=True)
class Examined:
    """Everything that the checks are given; what could not be found out is an error to raise.

    Attributes:
        cluster: ``None`` when only the machine is looked at.
        readable: whether the cluster may be looked at.
        pid: of the running postmaster.
        pid_problem: why it cannot be told whether one runs.
        found_marker: what tde.json says, ``None`` for a plain cluster, or why it cannot be used.
        keystore: where the cluster's keystore is.
        found_binaries: the installation, or why there is none.
        found_settings: the settings, or why they could not be read.
        plain_copies: of encrypted rows, or why they could not be looked for; ``None`` when they
            were not.
        archiver: what the running server says of it; ``None`` when it was not asked.
    """

    machine: MachineFiles
    os_user: OsUser | None
    cluster: Cluster | None = None
    readable: bool = True
    pid: int | None = None
    pid_problem: TdeError | None = None
    found_marker: Marker | TdeError | None = None
    keystore: Path | None = None
    found_binaries: PostgresBinaries | TdeError | None = None
    found_settings: Settings | TdeError | None = None
    plain_copies: PlainCopies | TdeError | None = None
    archiver: Archiver | TdeError | None = None

    @property
    def marker(self) -> Marker | None:
        """What tde.json says; ``None`` when there is none that can be used."""
        return self.found_marker if isinstance(self.found_marker, Marker) else None

    @property
    def server(self) -> ServerProcess | None:
        """The running server, as the machine is checked for it."""
        if self.pid is None:
            return None
        published = read_published_status(self.pid)
        return ServerProcess(
            self.pid,
            self.is_encrypted,
            private=forbids_access(self.pid),
            openssl_capabilities=None if published is None else published.openssl_capabilities,
        )

    @property
    def is_encrypted(self) -> bool:
        """Whether the cluster was created with a keystore."""
        return self.found_marker is not None

    @property
    def data_directory(self) -> Path:
        """The cluster's directory; only for checks of clusters."""
        if self.cluster is None:
            raise PostgresError("no cluster was named", remedy="Name one with -D.")
        return self.cluster.data_directory

    @property
    def binaries(self) -> PostgresBinaries:
        """The installation.

        Raises:
            TdeError: there is none.
        """
        if isinstance(self.found_binaries, PostgresBinaries):
            return self.found_binaries
        raise self.found_binaries or PostgresError("no installation was looked for")

    @property
    def has_binaries(self) -> bool:
        """Whether there is an installation."""
        return isinstance(self.found_binaries, PostgresBinaries)

    @property
    def settings(self) -> Settings:
        """The cluster's settings.

        Raises:
            TdeError: they could not be read.
        """
        if isinstance(self.found_settings, Settings):
            return self.found_settings
        raise PostgresError(
            "the settings could not be read",
            remedy="See the line Configuration.",
        )
