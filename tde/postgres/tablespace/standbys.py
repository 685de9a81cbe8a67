"""What standbys need to know about a new key."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import TYPE_CHECKING

from tde.postgres.tablespace.tablespaces import PreparedKey, Tablespace, run_query

if TYPE_CHECKING:
    from tde.keystore import Keystore
    from tde.postgres.cluster.cluster import Cluster


def prepared_notice(prepared: PreparedKey) -> str:
    """Return what has to be done on each standby before the tablespace is created."""
    return (
        f"On every standby with a keystore of its own: copy {prepared.file} into its directory "
        "keys/, or have it brought by tde keystore copy. On every standby on another machine: "
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
        f"A standby with a keystore of its own stops until {file} is copied into its directory "
        f"keys/, and one on another machine until {tablespace.location} exists there; then start "
        f"it again. Connected: {', '.join(sorted(row[0] for row in rows))}. Next time prepare the "
        "key first, with --prepare."
    )
