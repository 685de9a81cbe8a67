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

from tde.errors import ConfigurationFileError, DataDirectoryError, TdeError
from tde.postgres.cluster.configuration import configuration_files
from tde.postgres.cluster.keystore_place import is_of_keystore
from tde.postgres.server.cluster_files import read_configuration
from tde.postgres.server.debian_layout import data_directory_in
from tde.postgres.server.file_user import files_as
from tde.postgres.server.interposer import GUARD_FILE, GUARD_LINE
from tde.postgres.server.os_user import OsUser, user_name
from tde.postgres.server.owned_files import append_to_file, write_owned_file
from tde.printable import printable

_log = logging.getLogger(__name__)

GUARD_SECTION = f"""
# This cluster is encrypted: it starts only with `tde pg start`, which provides the keys and
# makes this file appear. It does not exist on disk; do not create it or remove this line.
{GUARD_LINE}
"""
_EARLIER_SECTION = GUARD_SECTION.replace(GUARD_LINE, f"include '{GUARD_FILE}'")


def has_guard(configuration: Path) -> bool:
    """Tell whether a configuration file has the guard already; a comment is none."""
    lines = read_configuration(configuration).decode(errors="replace").splitlines()
    return any(GUARD_FILE in line.partition("#")[0] for line in lines)


def add_guard(configuration: Path, os_user: OsUser | None) -> None:
    """Append the guard to a configuration file."""
    append_to_file(configuration, GUARD_SECTION, os_user)


def ensure_guards(
    data_directory: Path, keystore: Path, arguments: Sequence[str], os_user: OsUser | None
) -> None:
    """Put the guard into each file that a server of an encrypted cluster may begin with.

    A cluster that was restored finds the configuration of its new machine, and earlier releases
    put the guard into PGDATA only. A file that cannot be changed is logged as a warning: the server
    that starts now is not at risk. What names a file may be postmaster.opts, which lies beside the
    data: nothing is appended to one that is not for sure a configuration of this cluster.
    """
    try:
        files = configuration_files(data_directory, arguments)
    except DataDirectoryError as error:
        # What this start names, the server itself will look for; what the last one named is gone.
        _log.info("%s", error)
        return
    for path in files:
        try:
            with files_as(os_user):
                if has_guard(path):
                    continue
                _require_configuration(path, data_directory, keystore)
                add_guard(path, os_user)
                _log.info("%s now has the line that stops a start without tde", path)
        except PermissionError as error:
            # What cannot be read may well have the line.
            _log.warning(
                "It cannot be told whether a start of PostgreSQL without tde is stopped early: %s "
                "may not be read or changed by the server's user (%s)%s. Give it to that user, or "
                "let a group read it of which that user is a member",
                printable(str(path)),
                printable(error.strerror or str(error)),
                _owner_of(path),
            )
        except (OSError, TdeError) as error:
            _log.warning(
                "A start of PostgreSQL without tde is not stopped early, because %s has no guard: "
                "%s. If it is a configuration file, append this line to it: include '%s'",
                printable(str(path)),
                printable(str(error)),
                GUARD_FILE,
            )


def _owner_of(path: Path) -> str:
    try:
        return f"; it belongs to {printable(user_name(path.stat().st_uid))}"
    except OSError:
        return ""  # Its directory is closed to us as well.


def _require_configuration(path: Path, data_directory: Path, keystore: Path) -> None:
    """Check that a file is a configuration of this cluster, before something is appended to it.

    Raises:
        ConfigurationFileError: it may be something else.
    """
    inside = path.is_relative_to(data_directory.resolve())
    if path.suffix != ".conf":
        reason = "its name does not end with .conf"
    elif is_of_keystore(path, keystore):
        reason = "it lies in the keystore"
    elif not inside and data_directory_in(path) != data_directory.resolve():
        reason = f"it has no line data_directory = '{data_directory}', so it may be another's"
    else:
        return
    raise ConfigurationFileError(reason)


def remove_guard(configuration: Path, os_user: OsUser | None) -> None:
    """Take the guard out of a configuration file again, which is then as before it was added.

    Raises:
        UnsafeDirectoryError: the directory does not belong to the server's user.
        OSError: the file cannot be read or written.
    """
    # Whatever else is in the file stays as it is, also line ends and bytes that are no UTF-8.
    content = read_configuration(configuration).decode("utf-8", "surrogateescape")
    remaining = content.replace(GUARD_SECTION, "").replace(_EARLIER_SECTION, "")
    if GUARD_FILE in remaining:  # Somebody has edited the comment.
        lines = remaining.splitlines(keepends=True)
        remaining = "".join(line for line in lines if GUARD_FILE not in line)
    mode = stat.S_IMODE(configuration.stat().st_mode)
    write_owned_file(configuration, remaining, os_user, mode=mode)
