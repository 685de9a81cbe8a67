"""Settings with which the server's log does not quote rows.

The log is a plain file, and by default PostgreSQL writes the values of a row into it when a row
violates a constraint, and the whole statement with every error. New encrypted clusters begin
without that. The settings stand at the top of postgresql.conf, so whatever a DBA has set, or sets
later, in that file or with ALTER SYSTEM, wins.
"""

from __future__ import annotations

import stat
from pathlib import Path

from tde.postgres.server.cluster_files import read_configuration
from tde.postgres.server.os_user import OsUser
from tde.postgres.server.owned_files import write_owned_file

LOG_SETTINGS = {"log_error_verbosity": "terse", "log_min_error_statement": "panic"}
"""The values of :func:`add_log_settings`. Parameters of statements are left out by default."""

STOCK_LOG_SETTINGS = {"log_error_verbosity": "default", "log_min_error_statement": "error"}
"""PostgreSQL's own values, for who prefers rows in the log."""

LOG_SECTION = """\
# The server's log is not encrypted. With these settings of tde, errors are logged without the row
# (DETAIL, and HINT and CONTEXT with it) and without the statement. What stands below them wins.
""" + "".join(f"{name} = {value}\n" for name, value in LOG_SETTINGS.items())

_UNDO = [f"ALTER SYSTEM SET {name} = '{value}'" for name, value in STOCK_LOG_SETTINGS.items()]
UNDO_LOG_SETTINGS = " ".join(f'-c "{sql}"' for sql in [*_UNDO, "SELECT pg_reload_conf()"])
"""Arguments of psql that bring back PostgreSQL's own way."""


def add_log_settings(path: Path, os_user: OsUser | None) -> None:
    """Put the settings at the top of a configuration file; where they are already, nothing changes.

    Raises:
        UnsafeDirectoryError: the directory does not belong to the server's user.
        OSError: the file cannot be read or written.
    """
    content = _read(path)
    if LOG_SECTION not in content:
        _write(path, LOG_SECTION + content, os_user)


def remove_log_settings(path: Path, os_user: OsUser | None) -> None:
    """Take them out again, unless somebody has edited them.

    Raises:
        UnsafeDirectoryError: the directory does not belong to the server's user.
        OSError: the file cannot be read or written.
    """
    content = _read(path)
    if LOG_SECTION in content:
        _write(path, content.replace(LOG_SECTION, "", 1), os_user)


def _read(path: Path) -> str:
    # Whatever else is in the file stays as it is, also line ends and bytes that are no UTF-8.
    return read_configuration(path).decode("utf-8", "surrogateescape")


def _write(path: Path, content: str, os_user: OsUser | None) -> None:
    write_owned_file(path, content, os_user, mode=stat.S_IMODE(path.stat().st_mode))
