"""The clusters that a run makes, and removes with their directory."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from psycopg2 import extensions

from tde.algorithms import Algorithm
from tde.errors import ServerNotRunningError, ServerStopError
from tde.keystore import Keystore
from tde.postgres import Cluster, PostgresBinaries
from tde.postgres.cluster.log_settings import LOG_SETTINGS
from tde.postgres.server.os_user import server_os_user
from tde.postgres.server.program import run_program
from tde.postgres.server.sockets import remove_private_directory
from tde_bench.configurations import Configuration
from tde_bench.errors import BenchError
from tde_bench.servers.database import Connection, create_database
from tde_bench.servers.labelled_connections import labelled_connection
from tde_bench.servers.leftover_processes import end_leftover_processes
from tde_bench.servers.libpq_variables import clean_environment, without_libpq_variables
from tde_bench.servers.server import DATABASE, Server
from tde_bench.servers.workspace import give_to

# Not the locale of whoever runs the benchmark, so that results can be compared.
_INITDB_ARGUMENTS = ("--locale=C", "--encoding=UTF8")


def ephemeral_settings(shared_buffers: str, clients: int = 0) -> dict[str, str]:
    """Return the settings that every ephemeral cluster gets, encrypted or not.

    ``clients`` is how many sessions the benchmark will open at once.

    They keep work out of the measured rounds that would hit one configuration and not the
    other, and leave everything that makes a transaction durable as it is by default.
    """
    return {
        # An encrypted cluster begins with these; on the plain one they must not differ.
        **LOG_SETTINGS,
        # Each server listens on its own private socket only, so no ports can collide.
        "listen_addresses": "",
        # Far smaller than the data, so that pages are read and written, which is where the
        # cipher works. The default of 128 MB would hold much of a small test database.
        "shared_buffers": shared_buffers,
        # The default, or room for the benchmark's own connections beside all clients.
        "max_connections": str(max(100, clients + 20)),
        # The defaults, said again: with these off, a benchmark of storage is about memory.
        "fsync": "on",
        "synchronous_commit": "on",
        "full_page_writes": "on",
        # Checkpoints come when the benchmark asks for them (before and after each round), not
        # in the middle of some rounds. A long round may still fill max_wal_size and so start
        # one; it does so for every configuration alike.
        "checkpoint_timeout": "1h",
        "max_wal_size": "4GB",
        # Keeps used segments for reuse: creating and zero-filling new ones is slow, and would
        # burden those rounds that happen to need them.
        "min_wal_size": "1GB",
        # Autovacuum would wake up in the middle of some rounds, and in idle servers while
        # another one is measured. The benchmark vacuums before each round instead.
        "autovacuum": "off",
    }


class EphemeralServer(Server):
    """A cluster that the benchmark makes in ``folder`` and removes with it.

    Call :meth:`close` whenever :meth:`start` was called, even if that failed.
    """

    def __init__(
        self, configuration: Configuration, folder: Path, binaries: PostgresBinaries
    ) -> None:
        super().__init__(configuration)
        self._folder = folder
        self._os_user = server_os_user(None)
        self._cluster = Cluster(folder / "data", binaries, os_user=self._os_user)
        self._dsn = ""
        self._keep = False
        self._settings: Mapping[str, str] = {}
        self._keystore: Keystore | None = None

    def start(self, settings: Mapping[str, str], *, keep: bool) -> None:
        """Initialize the cluster, start it, and create the benchmark's database.

        With ``keep``, the passphrase of an encrypted cluster is written next to it. The keystore
        stays open for :meth:`start_again` and :meth:`run_program`.
        """
        self._keep = keep
        self._settings = settings
        self._folder.mkdir(mode=0o700)
        give_to(self._folder, self._os_user)
        if self.configuration.algorithm is not None:
            self._keystore = self._new_keystore()
        self._cluster.init(
            keystore=self._keystore,
            algorithm=self.configuration.algorithm or Algorithm.AES256,
            initdb_args=_INITDB_ARGUMENTS,
        )
        self.start_again()
        label = self.configuration.label
        with without_libpq_variables():
            connection = labelled_connection(label, self._make_dsn("postgres"))
        with contextlib.closing(connection):
            create_database(connection, DATABASE)
        self._dsn = self._make_dsn(DATABASE)

    def start_again(self) -> None:
        """Start the server as the first time, for example after :meth:`crash`."""
        self._cluster.start(
            self._keystore,
            options=self._settings,
            log=self.log,
            environment=self.configuration.environment,
        )

    def renew(self) -> None:
        """Stop the server as an operator would, and start it again.

        Raises:
            BenchError: naming the configuration, when the server has died before.
        """
        try:
            self._cluster.stop("fast")
        except ServerNotRunningError as error:
            raise BenchError(
                f"{self.configuration.label}: the server has ended between two rounds",
                remedy="A full disk and a lack of memory are common reasons. Measure again.",
            ) from error
        self.start_again()

    def crash(self) -> None:
        """End the server without a checkpoint, as a crash would; the next start recovers."""
        self._cluster.stop("immediate")

    def run_program(self, program: str, *arguments: str) -> None:
        """Run a PostgreSQL program as the server's user, with the keys if it needs them.

        Raises:
            BenchError: when it fails, with what it printed.
        """
        completed = run_program(
            self._cluster.binaries,
            program,
            arguments,
            keystore=self._keystore,
            os_user=self._os_user,
            environment=self.configuration.environment,
        )
        if completed.returncode != 0:
            raise BenchError(
                f"{program} ended with status {completed.returncode} on "
                f"{self.configuration.label}:\n{(completed.stdout + completed.stderr).strip()}"
            )

    @property
    def folder(self) -> Path:
        """The directory of the cluster's own; the server's user may write to it."""
        return self._folder

    @property
    def log(self) -> Path:
        """The server's log, of all its starts."""
        return self._folder / "server.log"

    def _make_dsn(self, database: str) -> str:
        parameters: dict[str, Any] = self._cluster.connection_parameters(database)
        dsn: str = extensions.make_dsn(**parameters)
        return dsn

    def _new_keystore(self) -> Keystore:
        passphrase = secrets.token_urlsafe(32).encode()
        if self._keep:
            file = self._folder / "passphrase"
            file.touch(mode=0o600)
            file.write_bytes(passphrase)
            give_to(file, self._os_user)
        owner = None if self._os_user is None else (self._os_user.uid, self._os_user.gid)
        return Keystore.create(self._folder / "keystore", passphrase, owner=owner)

    @property
    def dsn(self) -> str:
        """Connection string over the cluster's Unix socket."""
        return self._dsn

    @property
    def password(self) -> str | None:
        """None: the socket is in a directory that is closed to other users."""
        return None

    @property
    def client_environment(self) -> dict[str, str]:
        """This process's environment, in which nothing may change how this server is measured."""
        return clean_environment()

    def connect(self) -> Connection:
        """Open a connection that the user's PGOPTIONS or PGSERVICE does not change."""
        with without_libpq_variables():
            return super().connect()

    @property
    def postmaster_pid(self) -> int | None:
        """Process number of the postmaster."""
        return self._cluster.pid

    @property
    def data_directory(self) -> Path | None:
        """The data directory, which the benchmark made."""
        return self._folder / "data"

    @property
    def can_checkpoint(self) -> bool:
        """True: the benchmark connects as the superuser."""
        return True

    def close(self) -> None:
        """Stop the server and forget its keys; whoever made the folder removes it."""
        if self._keystore is not None:
            self._keystore.close()
        if self._cluster.pid is not None:
            # A cluster that is about to be removed need not write its buffers first. What pg_ctl
            # cannot stop, such as the single-user server of an interrupted initdb, ends below.
            with contextlib.suppress(ServerStopError):
                self._cluster.stop("fast" if self._keep else "immediate")
        end_leftover_processes(self._folder / "data")
        # Stopping the cluster removed its socket directory, unless its start was interrupted.
        remove_private_directory(self._folder / "data", self._os_user)
