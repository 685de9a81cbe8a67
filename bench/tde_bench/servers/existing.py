"""A server that the user runs."""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path

import psutil
import psycopg2
from psycopg2 import extensions, sql

from tde_bench.configurations import Configuration
from tde_bench.errors import BenchError
from tde_bench.servers.database import Connection, create_database, execute
from tde_bench.servers.existing_access import (
    is_alive,
    local_postmaster,
    may_checkpoint,
    readable_data_directory,
)
from tde_bench.servers.labelled_connections import labelled_connection
from tde_bench.servers.server import DATABASE, Server

# The first version (PostgreSQL 13) that ends a database's sessions when it is dropped.
_FORCE_SINCE = 130000


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
                create_database(connection, self._database)
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
