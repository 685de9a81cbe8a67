"""What standbys need to know about a new key."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING

from tde.postgres.tablespace.tablespaces import PreparedKey, Tablespace

if TYPE_CHECKING:
    from tde.keystore import Keystore
    from tde.postgres.cluster.standbys import ConnectedStandby


# Not by cp: the standby's keystore may have a master key of its own.
_BRING = (
    "tde keystore sync HOST:DIR, where DIR is the standby's keystore on HOST; without ssh, bring a "
    "tde keystore backup there and use tde keystore copy"
)


def prepared_notice(prepared: PreparedKey) -> str:
    """Return what has to be done on each standby before the tablespace is created."""
    return (
        f"Its key is {prepared.file}. On every standby with a keystore of its own: {_BRING}. "
        "On every standby on another machine: "
        f"mkdir -p {shlex.quote(str(prepared.location))}, as the server's user."
    )


def unasked_notice(
    keystore: Keystore, tablespace: Tablespace, standbys: Sequence[ConnectedStandby]
) -> str:
    """Return what standbys need that were not asked; empty when there was none.

    A standby replays CREATE TABLESPACE, but key records do not travel in the WAL: without the
    record it stops there.

    Args:
        standbys: that were connected before the tablespace was created.
    """
    replaying = [standby.in_words for standby in standbys if standby.replays]
    if not replaying or tablespace.key_file is None:
        return ""
    file = keystore.path / "keys" / tablespace.key_file
    return (
        f"A standby with a keystore of its own stops until it has the key {file}: {_BRING}. One on "
        f"another machine stops until {tablespace.location} exists there. Then start it again. "
        f"Connected were: {', '.join(replaying)}."
    )
