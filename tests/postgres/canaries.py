"""Rows that are looked for in files: nothing encrypted holds them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.conftest import RunningCluster

# Long and improbable, and in every row that a test writes.
CANARY = b"canary-9f6c1d0b-in-plain-sight"


def files_with(needle: bytes, *directories: Path) -> list[Path]:
    """Return every file below the directories that holds these bytes anywhere."""
    found = []
    for directory in directories:
        for path in sorted(directory.rglob("*")):
            if path.is_file() and not path.is_symlink() and _holds(path, needle):
                found.append(path)
    return found


def _holds(path: Path, needle: bytes) -> bool:
    # Read, never mapped: a running server may shorten the file, which kills who looks at a mapping.
    tail = b""
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            if needle in (window := tail + chunk):
                return True
            tail = window[-(len(needle) - 1) :]
    return False


def settle(cluster: RunningCluster) -> None:
    """Bring everything that the server holds in memory to its files."""
    cluster.query("CHECKPOINT")
    cluster.query("SELECT pg_switch_wal()")
    cluster.query("CHECKPOINT")
