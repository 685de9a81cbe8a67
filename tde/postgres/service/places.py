"""Where programs are that stand for PostgreSQL's, and where it is written down for whom."""

from __future__ import annotations

import os
from pathlib import Path

from tde.postgres.server.debian_layout import DebianCluster

PROGRAMS_OF_VERSION = "/usr/lib/postgresql/{}/bin"
"""Where postgresql-common looks for programs (PgCommon.pm), and nowhere else."""

PLACE_OF_ROOT = Path("/var/lib/tde/bin")
"""Where root puts directories of stand-ins."""

VARIABLE = "TDE_REGISTERED"
"""Names another directory for what was registered, as tests need it."""


def own_place() -> Path:
    """Return the directory below which this user's directories of stand-ins are."""
    if os.geteuid() == 0:
        return PLACE_OF_ROOT
    home = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(home) / "tde" / "bin"


def default_directory(cluster: DebianCluster) -> Path:
    """Return where the stand-ins of a cluster lie; root makes them out of the server's reach."""
    return own_place() / f"{cluster.major}-{cluster.name}"


def place_of_records() -> Path:
    """Return the directory in which this user's registrations are written down."""
    named = os.environ.get(VARIABLE)
    return Path(named) if named else own_place().with_name("registered")
