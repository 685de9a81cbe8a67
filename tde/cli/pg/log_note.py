"""What commands say about rows in the server's log."""

from __future__ import annotations

from pathlib import Path

from tde.console.output import console
from tde.postgres.cluster.log_settings import UNDO_LOG_SETTINGS


def print_log_note(data_directory: Path) -> None:
    """Say how errors are logged in a new encrypted cluster, and how a DBA changes that."""
    console.print(
        "Errors are logged without rows and statements, because the log is not encrypted. To have "
        f"them in it: tde psql -D {data_directory} -- {UNDO_LOG_SETTINGS}",
        markup=False,
        soft_wrap=True,
    )
