"""Making a standby a primary."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from tde.errors import ReplicationError
from tde.postgres.cluster.questions import ask_server
from tde.replication.source import WRITTEN_TIMELINE

if TYPE_CHECKING:
    from tde.postgres.cluster.cluster import Cluster

_LOOK_SECONDS = 0.1
_STATE = f"""
SELECT json_build_object(
    'recovery', pg_is_in_recovery(),
    'timeline', CASE WHEN pg_is_in_recovery() THEN 0
        ELSE {WRITTEN_TIMELINE} END)
"""


def promote(cluster: Cluster, *, timeout: float, username: str | None = None) -> int:
    """Promote a standby, wait until it is a primary, and return its new timeline.

    Args:
        timeout: seconds to wait.

    Raises:
        ServerNotRunningError: there is no server.
        ProgramError: it does not answer.
        ReplicationError: it is a primary already, or is not one in time.
    """
    if not ask_server(cluster, _STATE, username=username)["recovery"]:
        raise ReplicationError(
            f"the server in {cluster.data_directory} is no standby: it is a primary already"
        )
    deadline = time.monotonic() + timeout
    # Waiting is done here: the question itself has less time.
    ask_server(cluster, "SELECT to_json(pg_promote(false))", username=username)
    while (state := ask_server(cluster, _STATE, username=username))["recovery"]:
        if time.monotonic() > deadline:
            raise ReplicationError(
                f"the standby {cluster.data_directory} was told to become a primary, and is not "
                f"one after {timeout:g} seconds",
                remedy="It replays what it has received first. Wait and see tde replication "
                f"status -D {cluster.data_directory}",
            )
        time.sleep(_LOOK_SECONDS)
    return int(state["timeline"])
