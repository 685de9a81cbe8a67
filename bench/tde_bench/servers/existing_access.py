"""Rights and places of a server that the user runs, which decide what may be measured on it."""

from __future__ import annotations

import os
from pathlib import Path

import psutil
import psycopg2

from tde_bench.servers.database import Connection, fetch_value


def may_checkpoint(connection: Connection) -> bool:
    """Tell whether the user is a superuser or has pg_checkpoint."""
    # The role is asked for by its number: its name is an error before PostgreSQL 15, where only
    # superusers may.
    query = """
        SELECT rolsuper OR EXISTS (
            SELECT FROM pg_roles WHERE rolname = 'pg_checkpoint' AND pg_has_role(oid, 'USAGE'))
        FROM pg_roles WHERE rolname = current_user
    """
    return bool(fetch_value(connection, query))


def local_postmaster(connection: Connection) -> psutil.Process | None:
    """Return the postmaster if the connection's server is on this machine.

    The backend's number is looked up here and must belong to a process whose title says that
    it serves this very connection: the server may run in a container, where numbers differ.
    """
    if not str(connection.info.host or "").startswith("/"):
        return None
    parameters = connection.get_dsn_parameters()
    expected = f"{parameters.get('user')} {parameters.get('dbname')} [local]"
    try:
        backend = psutil.Process(connection.info.backend_pid)
        title = " ".join(backend.cmdline())
        return backend.parent() if expected in title else None
    except psutil.Error:
        return None


def is_alive(process: psutil.Process) -> bool:
    """Tell whether a process still runs; another one that has got its number does not count."""
    try:
        # One that has ended stays in the list until its parent, perhaps an idle init, notices.
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def readable_data_directory(connection: Connection) -> Path | None:
    """Return the data directory if the server tells it and this process may read it."""
    try:
        path = Path(fetch_value(connection, "SHOW data_directory"))
    except psycopg2.errors.InsufficientPrivilege:
        return None
    return path if os.access(path / "base", os.R_OK | os.X_OK) else None
