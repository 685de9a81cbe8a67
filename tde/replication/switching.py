"""Changing the roles of a primary and its standby, with nothing lost and nothing to rewind.

The primary is shut down, which sends all that it has; only when the standby has that on its disk is
it promoted. Until then everything can be taken back.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from tde.errors import ReplicationError
from tde.postgres.cluster.questions import ask_server
from tde.postgres.server.control import read_control_data
from tde.replication.source import Source

if TYPE_CHECKING:
    from tde.postgres.cluster.cluster import Cluster

_LOOK_SECONDS = 0.1
_FOLLOWERS = """
SELECT coalesce(json_agg(json_build_object(
    'name', application_name, 'state', state,
    'behind', pg_wal_lsn_diff(pg_current_wal_lsn(), flush_lsn))), '[]')
FROM pg_stat_replication
"""
# How much may be under way: more would keep everybody waiting while it is sent.
_MOST_BEHIND = 64 << 20


def require_switchable(cluster: Cluster, standby: Source, system_identifier: int) -> None:
    """Check that a running primary has this standby, and that it is near enough.

    Raises:
        ReplicationError: it has not.
        ServerNotRunningError: the primary does not run.
        ProgramError: it does not answer.
    """
    directory, name = cluster.data_directory, standby.server.name
    if ask_server(cluster, "SELECT to_json(pg_is_in_recovery())"):
        raise ReplicationError(
            f"the server in {directory} is a standby itself",
            remedy="Run the command where the primary is, with -D of its data directory.",
        )
    if standby.system_identifier != system_identifier or not standby.is_standby:
        raise ReplicationError(
            f"the server {name} is no standby of {directory}",
            remedy=f"See who follows it: tde replication status -D {directory}",
        )
    streaming = [one for one in ask_server(cluster, _FOLLOWERS) if one["state"] == "streaming"]
    near = [one for one in streaming if (one["behind"] or 0) <= _MOST_BEHIND]
    if not near:
        why = "nobody streams from it" if not streaming else "its standbys are too far behind"
        raise ReplicationError(
            f"{directory} cannot hand over to {name}: {why}",
            remedy=f"Nothing was changed. Wait, and see tde replication status -D {directory}",
        )


def wait_until_received(cluster: Cluster, standby: Source, timeout: float) -> None:
    """Wait until a standby has, and has replayed, all of a primary that was shut down.

    Raises:
        ReplicationError: it has not in time. Nothing was promoted.
    """
    control = read_control_data(cluster.data_directory, cluster.binaries, cluster.os_user)
    last = f"{control.checkpoint >> 32:X}/{control.checkpoint & 0xFFFFFFFF:X}"
    # Behind the beginning of the last record: so it was received and replayed as a whole.
    query = f"SELECT to_json(coalesce(pg_last_wal_replay_lsn() > '{last}', false))"
    deadline = time.monotonic() + timeout
    while not standby.server.ask(query):
        if time.monotonic() > deadline:
            raise ReplicationError(
                f"the standby {standby.server.name} has not received the end of the WAL, {last}",
                remedy="Nothing was promoted, and the primary is started again.",
            )
        time.sleep(_LOOK_SECONDS)


def promote_remote(standby: Source, timeout: float) -> None:
    """Promote it, and wait until it is a primary.

    Raises:
        ReplicationError: it refuses, or is none in time.
    """
    server = standby.server
    server.ask("SELECT to_json(pg_promote(false))")
    deadline = time.monotonic() + timeout
    while server.ask("SELECT to_json(pg_is_in_recovery())"):
        if time.monotonic() > deadline:
            raise ReplicationError(
                f"the standby {server.name} was told to become a primary, and is none yet",
                remedy="Its log says why. Do not start the old primary before you know: tde pg "
                f"rejoin -D DIR --primary '{server.conninfo()}' when that is a primary.",
            )
        time.sleep(_LOOK_SECONDS)
