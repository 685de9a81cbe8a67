"""The guard against starting an encrypted cluster without tde.

Such a server could not read its WAL and would stop, but with a message ("could not locate a
valid checkpoint record") that tempts people to run pg_resetwal. So postgresql.conf includes a
file that never exists and whose name says what to do; only the interposer, when it has the
keys, lets the server see an empty file there.
"""

from __future__ import annotations

from pathlib import Path

from tde.postgres.os_user import OsUser
from tde.postgres.owned_files import append_to_file

GUARD_FILE = "tde-start-this-cluster-with-tde-pg-start.conf"

_SECTION = f"""
# This cluster is encrypted: it starts only with `tde pg start`, which provides the keys and
# makes this file appear. It does not exist on disk; do not create it or remove this line.
include '{GUARD_FILE}'
"""


def add_guard(data_directory: Path, os_user: OsUser | None) -> None:
    """Append the guard to postgresql.conf of a new cluster."""
    append_to_file(data_directory / "postgresql.conf", _SECTION, os_user)
