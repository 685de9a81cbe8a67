"""Where the manager keeps what has to survive it: the servers that it knows, and jobs."""

from __future__ import annotations

import os
from pathlib import Path

_OF_ROOT = Path("/var/lib/tde/manager")


def default_directory() -> Path:
    """Return this user's directory, as for what tde installs."""
    if os.geteuid() == 0:
        return _OF_ROOT
    home = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(home) / "tde" / "manager"


def prepare_directory(directory: Path) -> None:
    """Make a directory that nobody else may look into, if it is not there.

    Raises:
        OSError: it cannot be made.
    """
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    directory.chmod(0o700)
    for name in ("jobs", "locks"):
        (directory / name).mkdir(mode=0o700, exist_ok=True)
