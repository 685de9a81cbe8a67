"""Questions to a running server, asked with psql as its own operating-system user.

Peer authentication knows that user, root or not. Whatever a database holds, its owner decides only
what is answered, not what runs: names are looked up in the system catalogs, nothing is written.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

from tde.errors import ProgramError
from tde.postgres.cluster.cluster import Cluster
from tde.postgres.server.os_user import run_as

LET_CONNECT = "Let {} connect (a .pgpass file), or name a superuser with --username."
"""What to do when a server refuses; the gap is for the operating-system user who asks."""

_CONNECT_SECONDS = "5"
_QUERY_SECONDS = 30
# Options of a connection win over ALTER ROLE ... SET and ALTER DATABASE ... SET.
_OPTIONS = (
    "-c search_path=pg_catalog -c default_transaction_read_only=on -c client_encoding=UTF8 "
    f"-c statement_timeout={_QUERY_SECONDS}s -c lock_timeout=5s"
)


def ask_server(
    cluster: Cluster, query: str, *, database: str = "postgres", username: str | None = None
) -> Any:
    """Return the one JSON value that a query yields.

    Args:
        username: the database user; by default the superuser that initdb made.

    Raises:
        ServerNotRunningError: there is no server.
        ProgramError: it did not answer.
    """
    parameters = cluster.connection_parameters()
    command: list[str | Path] = [cluster.binaries.program("psql")]
    command += ["-X", "-w", "-A", "-t", "-q", "-c", query]
    command += ["-h", str(parameters["host"]), "-p", str(parameters["port"])]
    command += ["-U", username or str(parameters["user"])]
    environment = {
        **os.environ,
        "LC_ALL": "C",
        "PGCONNECT_TIMEOUT": _CONNECT_SECONDS,
        "PGOPTIONS": _OPTIONS,
        # Not with -d, which takes a name with a "=" in it for a whole connection string.
        "PGDATABASE": database,
    }
    try:
        result = run_as(
            cluster.os_user, command, environment=environment, timeout=2 * _QUERY_SECONDS
        )
    except subprocess.TimeoutExpired as error:
        raise ProgramError(
            f"the server in {cluster.data_directory} does not answer within {2 * _QUERY_SECONDS} "
            "seconds"
        ) from error
    if result.returncode != 0:
        raise ProgramError(f"psql could not ask the server: {result.stderr.strip()}")
    return json.loads(result.stdout)
