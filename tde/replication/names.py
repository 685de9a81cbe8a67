"""Names of standbys and of replication slots, which PostgreSQL takes without quotes."""

from __future__ import annotations

import re
import socket
from pathlib import Path

from tde.errors import ReplicationError

_SLOT = re.compile(r"[a-z0-9_]{1,63}")
# What needs no quotes in synchronous_standby_names.
_STANDBY = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,62}")


def require_slot_name(name: str) -> None:
    """Refuse what cannot be the name of a slot; empty stands for none.

    Raises:
        ReplicationError: it cannot.
    """
    if name and not _SLOT.fullmatch(name):
        raise ReplicationError(
            f'"{name}" cannot be the name of a replication slot',
            remedy="Such names have lower-case letters, digits and underscores.",
        )


def require_standby_name(name: str) -> None:
    """Refuse what cannot be the name of a standby.

    Raises:
        ReplicationError: it cannot.
    """
    if not _STANDBY.fullmatch(name):
        raise ReplicationError(
            f'"{name}" cannot be the name of a standby',
            remedy="Such names have letters, digits and underscores, and begin with no digit: name "
            "another with --name.",
        )


def default_name(data_directory: Path) -> str:
    """Return a name for a standby: that of its machine and of its directory."""
    text = f"{socket.gethostname().split('.')[0]}_{data_directory.name}".lower()
    name = re.sub(r"[^a-z0-9_]", "_", text)
    return (f"n_{name}" if name[0].isdigit() else name)[:63]
