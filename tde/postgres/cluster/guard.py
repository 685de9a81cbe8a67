"""The guard against starting an encrypted cluster without tde.

Such a server could not read its WAL and would stop, but with a message ("could not locate a
valid checkpoint record") that tempts people to run pg_resetwal. So the configuration includes a
file that never exists and whose name says what to do; only the interposer, when it has the
keys, lets the server see an empty file there. It stands in every file that a server may begin
with (:mod:`.configuration`), because Debian's programs do not use the one in PGDATA.
"""

from __future__ import annotations

import logging
import stat
from collections.abc import Sequence
from pathlib import Path

from tde.errors import ConfigurationFileError, UnsafeDirectoryError
from tde.postgres.cluster.configuration import configuration_files
from tde.postgres.server.interposer import GUARD_FILE
from tde.postgres.server.os_user import OsUser
from tde.postgres.server.owned_files import append_to_file, write_owned_file

_log = logging.getLogger(__name__)

GUARD_SECTION = f"""
# This cluster is encrypted: it starts only with `tde pg start`, which provides the keys and
# makes this file appear. It does not exist on disk; do not create it or remove this line.
include '{GUARD_FILE}'
"""


def has_guard(configuration: Path) -> bool:
    """Tell whether a configuration file has the guard already; a comment is none."""
    lines = configuration.read_text(errors="replace").splitlines()
    return any(GUARD_FILE in line.partition("#")[0] for line in lines)


def add_guard(configuration: Path, os_user: OsUser | None) -> None:
    """Append the guard to a configuration file."""
    append_to_file(configuration, GUARD_SECTION, os_user)


def ensure_guards(data_directory: Path, arguments: Sequence[str], os_user: OsUser | None) -> None:
    """Put the guard into each file that a server of an encrypted cluster may begin with.

    A cluster that was restored finds the configuration of its new machine, and earlier releases
    put the guard into PGDATA only. A file that cannot be changed is logged as a warning: the server
    that starts now is not at risk.
    """
    try:
        files = configuration_files(data_directory, arguments)
    except ConfigurationFileError as error:
        # What this start names, the server itself will look for; what the last one named is gone.
        _log.info("%s", error)
        return
    for path in files:
        try:
            if not has_guard(path):
                add_guard(path, os_user)
                _log.info("%s now has the line that stops a start without tde", path)
        except (OSError, UnsafeDirectoryError) as error:
            _log.warning(
                "A start of PostgreSQL without tde is not stopped early, because %s has no guard: "
                "%s. Append this line to it: include '%s'",
                path,
                error,
                GUARD_FILE,
            )


def remove_guard(configuration: Path, os_user: OsUser | None) -> None:
    """Take the guard out of a configuration file again, which is then as before it was added.

    Raises:
        UnsafeDirectoryError: the directory does not belong to the server's user.
        OSError: the file cannot be read or written.
    """
    # Whatever else is in the file stays as it is, also line ends and bytes that are no UTF-8.
    content = configuration.read_bytes().decode("utf-8", "surrogateescape")
    remaining = content.replace(GUARD_SECTION, "")
    if GUARD_FILE in remaining:  # Somebody has edited the comment.
        lines = remaining.splitlines(keepends=True)
        remaining = "".join(line for line in lines if GUARD_FILE not in line)
    mode = stat.S_IMODE(configuration.stat().st_mode)
    write_owned_file(configuration, remaining, os_user, mode=mode)
