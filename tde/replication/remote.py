"""Another server, which a connection string names: asked with psql as the local server's own user.

That user's password file and certificates count, root or not, because the standby itself connects
with them later. A password never stands in the string: everybody on the machine sees the arguments
of a program.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg2
from psycopg2.extensions import make_dsn, parse_dsn

from tde.errors import ReplicationError
from tde.postgres.server.binaries import PostgresBinaries
from tde.postgres.server.os_user import OsUser, name_of_user, run_as

_CONNECT_SECONDS = 10
_QUERY_SECONDS = 60
# Options of a connection win over ALTER ROLE ... SET and ALTER DATABASE ... SET.
_OPTIONS = "-c search_path=pg_catalog -c client_encoding=UTF8"


@dataclass(frozen=True)
class RemoteServer:
    """A server and how it is reached.

    Attributes:
        parameters: of its connection string.
        binaries: whose psql asks.
        os_user: as whom, as root.
    """

    parameters: Mapping[str, str]
    binaries: PostgresBinaries
    os_user: OsUser | None

    @property
    def name(self) -> str:
        """The server in messages, for example ``node1:5432``."""
        host = self.parameters.get("host") or self.parameters.get("hostaddr") or "this machine"
        return f"{host}:{self.parameters.get('port', '5432')}"

    def conninfo(self, **more: str) -> str:
        """Return the connection string, with more parameters or others."""
        return str(make_dsn(**{**self.parameters, **more}))

    def ask(self, query: str) -> Any:
        """Return the one JSON value that a query yields.

        Raises:
            ReplicationError: the server does not answer.
        """
        return json.loads(self._run(query))

    def tell(self, command: str, *, seconds: int = _QUERY_SECONDS) -> None:
        """Have the server do something.

        Args:
            seconds: how long it may take.

        Raises:
            ReplicationError: it refuses, or does not answer.
        """
        self._run(command, seconds)

    def require_replication(self) -> None:
        """Check that the server lets this role replicate, as a base backup does.

        Raises:
            ReplicationError: it does not.
        """
        self._run("IDENTIFY_SYSTEM", replication="true")

    def _run(self, text: str, seconds: int = _QUERY_SECONDS, **more: str) -> str:
        database = self.parameters.get("dbname", "postgres")
        command: list[str | Path] = [self.binaries.program("psql"), "-X", "-w", "-A", "-t", "-q"]
        conninfo = self.conninfo(dbname=database, **more)
        command += ["-v", "ON_ERROR_STOP=1", "-d", conninfo, "-c", text]
        environment = {
            **os.environ,
            "LC_ALL": "C",
            "PGCONNECT_TIMEOUT": str(_CONNECT_SECONDS),
            "PGOPTIONS": f"{_OPTIONS} -c statement_timeout={seconds}s",
        }
        try:
            result = run_as(
                self.os_user, command, environment=environment, timeout=seconds + _CONNECT_SECONDS
            )
        except subprocess.TimeoutExpired as error:
            raise ReplicationError(
                f"the server {self.name} does not answer within {seconds} seconds",
                remedy="See whether it runs, and whether the network is there.",
            ) from error
        if result.returncode != 0:
            raise ReplicationError(
                f"the server {self.name} does not do what is asked of it: {result.stderr.strip()}",
                remedy=f"It is asked as the user {name_of_user(self.os_user)} of this machine: its "
                "~/.pgpass and certificates count, and pg_hba.conf there must let it connect, to "
                f"the database {database} and for replication (tde pg primary adds the lines).",
            )
        return result.stdout


def remote_server(
    conninfo: str, binaries: PostgresBinaries, os_user: OsUser | None
) -> RemoteServer:
    """Return the server that a connection string or URI names.

    Raises:
        ReplicationError: it is none, or has a password in it.
    """
    try:
        parameters = {name: str(value) for name, value in parse_dsn(conninfo).items()}
    except psycopg2.ProgrammingError as error:
        raise ReplicationError(
            f"{conninfo!r} is no connection string: {str(error).strip()}",
            remedy="For example: 'host=node1 user=repli', or postgresql://repli@node1.",
        ) from error
    if "password" in parameters:
        raise ReplicationError(
            "there is a password in the connection string, which everybody on the machine sees",
            remedy="Put it into the password file of the user that runs the server, ~/.pgpass, "
            "which the standby uses as well.",
        )
    return RemoteServer(parameters, binaries, os_user)
