"""What standbys need to know about a new key."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import TYPE_CHECKING

from tde.postgres.tablespace.tablespaces import PreparedKey, Tablespace, run_query

if TYPE_CHECKING:
    from tde.keystore import Keystore
    from tde.postgres.cluster.cluster import Cluster


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


def standby_notice(
    cluster: Cluster,
    keystore: Keystore,
    tablespace: Tablespace,
    *,
    connection: Mapping[str, object] | None = None,
) -> str:
    """Return what has to be done on the standbys about a new key; empty when none is connected.

    A standby replays CREATE TABLESPACE, but key records do not travel in the WAL: without the
    record it stops there.
    """
    parameters = {**cluster.connection_parameters(), **(connection or {})}
    rows = run_query(
        parameters,
        "SELECT DISTINCT coalesce(nullif(application_name, ''), 'unnamed') "
        "|| coalesce(' at ' || client_addr, ' on this machine') FROM pg_stat_replication",
    )
    if not rows or tablespace.key_file is None:
        return ""
    file = keystore.path / "keys" / tablespace.key_file
    return (
        f"A standby with a keystore of its own stops until it has the key {file}: {_BRING}. One on "
        f"another machine stops until {tablespace.location} exists there. Then start it again. "
        f"Connected: {', '.join(sorted(row[0] for row in rows))}. Next time prepare the "
        "key first, with --prepare."
    )
