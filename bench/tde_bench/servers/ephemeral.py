"""The servers of a run: ephemeral clusters that it makes, and servers that the user runs."""

from __future__ import annotations

import contextlib
import os
import secrets
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil
import psycopg2
from psycopg2 import extensions, sql

from tde.algorithms import Algorithm
from tde.errors import ServerNotRunningError, ServerStopError
from tde.keystore import Keystore
from tde.postgres import Cluster, PostgresBinaries
from tde.postgres.os_user import server_os_user
from tde.postgres.program import run_program
from tde.postgres.sockets import remove_private_directory
from tde_bench.configurations import Configuration
from tde_bench.errors import BenchError
from tde_bench.servers.database import Connection, execute
from tde_bench.servers.existing_access import (
    is_alive,
    local_postmaster,
    may_checkpoint,
    readable_data_directory,
)
from tde_bench.servers.labelled_connections import labelled_connection
from tde_bench.servers.leftover_processes import end_strays
from tde_bench.servers.workspace import give_to
from tde_bench.workloads.pgbench import Pgbench, clean_environment, without_libpq_variables

DATABASE = "tde_bench"

# The first version (PostgreSQL 13) that ends a database's sessions when it is dropped.
_FORCE_SINCE = 130000

# Not the locale of whoever runs the benchmark, so that results can be compared.
_INITDB_ARGUMENTS = ("--locale=C", "--encoding=UTF8")


def server_settings(shared_buffers: str, clients: int = 0) -> dict[str, str]:
    """Return the settings that every ephemeral cluster gets, encrypted or not.

    ``clients`` is how many sessions the benchmark will open at once.

    They keep work out of the measured rounds that would hit one configuration and not the
    other, and leave everything that makes a transaction durable as it is by default.
    """
    return {
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


class Server(ABC):
    """One server under test, with a database of its own for the benchmark."""

    def __init__(self, configuration: Configuration) -> None:
        self.configuration = configuration

    @property
    @abstractmethod
    def dsn(self) -> str:
        """Connection string of the benchmark's database, without a password."""

    @property
    @abstractmethod
    def password(self) -> str | None:
        """The password, when the server asks for one."""

    @property
    @abstractmethod
    def postmaster_pid(self) -> int | None:
        """Process number of the postmaster; None when it runs elsewhere or is hidden."""

    @property
    def helper_pids(self) -> tuple[int, ...]:
        """Processes outside the server that work for it alone, such as a filesystem's daemon."""
        return ()

    @property
    @abstractmethod
    def data_directory(self) -> Path | None:
        """The data directory; None when this process cannot read it."""

    @property
    @abstractmethod
    def can_checkpoint(self) -> bool:
        """Tell whether the connection may run CHECKPOINT."""

    @abstractmethod
    def close(self) -> None:
        """Remove what the benchmark created."""

    @abstractmethod
    def renew(self) -> None:
        """Start the server anew if it is the benchmark's own; connections to it end."""

    @property
    @abstractmethod
    def client_environment(self) -> dict[str, str]:
        """The environment for programs that connect to the server, with a password if needed."""

    def connect(self) -> Connection:
        """Open a psycopg2 connection to the benchmark's database in autocommit mode.

        Raises:
            BenchError: when the server cannot be reached or refuses.
        """
        return labelled_connection(self.configuration.label, self.dsn, self.password)

    def pgbench(self, program: Path) -> Pgbench:
        """Return pgbench for the benchmark's database."""
        return Pgbench(program, self.dsn, self.client_environment)


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
            _create_database(connection, DATABASE)
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
        end_strays(self._folder / "data")
        # Stopping the cluster removed its socket directory, unless its start was interrupted.
        remove_private_directory(self._folder / "data", self._os_user)


class ExistingServer(Server):
    """A server that the user runs; the benchmark works in a scratch database."""

    def __init__(self, configuration: Configuration) -> None:
        super().__init__(configuration)
        if configuration.dsn is None:
            raise ValueError("an existing server has a DSN")
        try:
            parameters = extensions.parse_dsn(configuration.dsn)
        except psycopg2.ProgrammingError as error:
            raise BenchError(
                f"{configuration.label}: not a connection string: {str(error).strip()}",
                remedy='Example: --existing "host=/run/postgresql dbname=postgres=mine"',
            ) from error
        self._password: str | None = parameters.pop("password", None)
        if "sslpassword" in parameters:
            raise BenchError(
                f"{configuration.label}: with sslpassword in the connection string, every user of "
                "this machine could read it in the arguments of pgbench",
                remedy="Name a service of pg_service.conf instead: service=NAME",
            )
        self._maintenance_dsn: str = extensions.make_dsn(**parameters)
        # A name of its own, so that nothing of the user's can be in the way or be dropped.
        self._database = f"{DATABASE}_{secrets.token_hex(6)}"
        self._dsn: str = extensions.make_dsn(**{**parameters, "dbname": self._database})
        self._created = False
        self._can_checkpoint = False
        self._postmaster: psutil.Process | None = None
        self._data_directory: Path | None = None

    def start(self) -> None:
        """Connect, find out what may be measured, and create the scratch database."""
        with contextlib.closing(self._maintenance_connection()) as connection:
            self._can_checkpoint = may_checkpoint(connection)
            self._postmaster = local_postmaster(connection)
            if self._postmaster is not None:
                self._data_directory = readable_data_directory(connection)
            # Said before it is true: an interruption may come as soon as the database exists.
            self._created = True
            try:
                _create_database(connection, self._database)
            except psycopg2.errors.InsufficientPrivilege as error:
                self._created = False
                raise BenchError(
                    f"{self.configuration.label}: the user may not create a scratch database",
                    remedy="Connect as a user with CREATEDB.",
                ) from error
            except psycopg2.Error as error:
                # A server that has refused has answered; otherwise nobody knows.
                self._created = error.pgcode is None
                raise

    def _maintenance_connection(self) -> Connection:
        return labelled_connection(self.configuration.label, self._maintenance_dsn, self._password)

    @property
    def dsn(self) -> str:
        """Connection string of the scratch database."""
        return self._dsn

    @property
    def password(self) -> str | None:
        """The password of the DSN, if it has one."""
        return self._password

    @property
    def client_environment(self) -> dict[str, str]:
        """This process's environment: the user's variables may be needed to reach the server."""
        password = {} if self._password is None else {"PGPASSWORD": self._password}
        return {**os.environ, **password}

    @property
    def postmaster_pid(self) -> int | None:
        """Process number of the postmaster, if it runs on this machine and is visible.

        Raises:
            BenchError: when that postmaster has ended since the run began.
        """
        if self._postmaster is None:
            return None
        if not is_alive(self._postmaster):
            raise BenchError(
                f"{self.configuration.label}: the server was stopped or restarted during the run",
                remedy="Its counters began anew, so nothing can be said. Measure again.",
            )
        return self._postmaster.pid

    def disown_processes(self) -> None:
        """Measure neither CPU nor bytes: another configuration uses the same server."""
        self._postmaster = None

    @property
    def data_directory(self) -> Path | None:
        """The data directory, if it is on this machine and readable."""
        return self._data_directory

    @property
    def can_checkpoint(self) -> bool:
        """Tell whether the user is a superuser or has pg_checkpoint."""
        return self._can_checkpoint

    def renew(self) -> None:
        """Do nothing: others may be working on the server."""

    def close(self) -> None:
        """Drop the scratch database.

        Raises:
            BenchError: naming the database that stays behind, when the server does not drop it.
        """
        if not self._created:
            return
        try:
            with contextlib.closing(self._maintenance_connection()) as connection:
                drop = sql.SQL("DROP DATABASE IF EXISTS {}").format(sql.Identifier(self._database))
                if connection.server_version >= _FORCE_SINCE:
                    drop += sql.SQL(" WITH (FORCE)")
                execute(connection, drop)
        except (BenchError, psycopg2.Error) as error:
            raise BenchError(
                f"{self.configuration.label}: the scratch database {self._database} stays behind, "
                f"because it could not be dropped:\n{str(error).strip()}",
                remedy=f"Once the server runs again: DROP DATABASE {self._database};",
            ) from error
        self._created = False


def _create_database(connection: Connection, name: str) -> None:
    execute(connection, sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
