"""The guard against starting an encrypted cluster without tde.

Such a server could not read its WAL and would stop, but with a message ("could not locate a
valid checkpoint record") that tempts people to run pg_resetwal. So postgresql.conf includes a
file that never exists and whose name says what to do; only the interposer, when it has the
keys, lets the server see an empty file there.
"""

from __future__ import annotations

import stat
from pathlib import Path

from tde.postgres.server.interposer import GUARD_FILE
from tde.postgres.server.os_user import OsUser
from tde.postgres.server.owned_files import append_to_file, write_owned_file

GUARD_SECTION = f"""
# This cluster is encrypted: it starts only with `tde pg start`, which provides the keys and
# makes this file appear. It does not exist on disk; do not create it or remove this line.
include '{GUARD_FILE}'
"""


def has_guard(data_directory: Path) -> bool:
    """Tell whether postgresql.conf has the guard already."""
    return GUARD_FILE in (data_directory / "postgresql.conf").read_text(errors="replace")


def add_guard(data_directory: Path, os_user: OsUser | None) -> None:
    """Append the guard to postgresql.conf of a new cluster."""
    append_to_file(data_directory / "postgresql.conf", GUARD_SECTION, os_user)


def remove_guard(data_directory: Path, os_user: OsUser | None) -> None:
    """Take the guard out of postgresql.conf again, which is then as before :func:`add_guard`.

    Raises:
        UnsafeDirectoryError: the directory does not belong to the server's user.
        OSError: the file cannot be read or written.
    """
    path = data_directory / "postgresql.conf"
    # Whatever else is in the file stays as it is, also line ends and bytes that are no UTF-8.
    content = path.read_bytes().decode("utf-8", "surrogateescape")
    remaining = content.replace(GUARD_SECTION, "")
    if GUARD_FILE in remaining:  # Somebody has edited the comment.
        lines = remaining.splitlines(keepends=True)
        remaining = "".join(line for line in lines if GUARD_FILE not in line)
    mode = stat.S_IMODE(path.stat().st_mode)
    write_owned_file(path, remaining, os_user, mode=mode)
