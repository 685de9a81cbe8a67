"""Changing the roles of a primary and its standby, with nothing lost and nothing to rewind.

The primary is shut down, which sends all that it has; only when the standby has replayed that is it
promoted. Until then everything can be taken back, so what could fail later is asked first.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from tde.errors import ReplicationError
from tde.postgres.cluster.questions import ask_server
from tde.postgres.server.control import read_control_data
from tde.replication.source import WRITTEN_TIMELINE, Source

if TYPE_CHECKING:
    from tde.postgres.cluster.cluster import Cluster

_LOOK_SECONDS = 0.1
# How much may be under way: more would keep everybody waiting while it is sent.
_MOST_BEHIND = 64 << 20
_SHUT_DOWN = "shut down"
_OF_PRIMARY = f"""
SELECT json_build_object(
    'recovery', pg_is_in_recovery(),
    'timeline', CASE WHEN pg_is_in_recovery() THEN 0
        ELSE {WRITTEN_TIMELINE} END,
    'position', CASE WHEN pg_is_in_recovery() THEN 0
        ELSE pg_current_wal_flush_lsn() - '0/0' END,
    'can_rewind', current_setting('data_checksums') = 'on'
        OR current_setting('wal_log_hints') = 'on')
"""
_OF_STANDBY = """
SELECT json_build_object(
    'receiver', (SELECT json_build_object('status', status, 'timeline', received_tli,
        'slot', slot_name) FROM pg_stat_wal_receiver),
    'received', pg_last_wal_receive_lsn() - '0/0',
    'replayed', pg_last_wal_replay_lsn() - '0/0',
    'paused', pg_is_wal_replay_paused(),
    'delay', current_setting('recovery_min_apply_delay'),
    'may_promote', has_function_privilege('pg_promote(boolean,integer)', 'execute'),
    'may_rewind',
        has_function_privilege('pg_read_binary_file(text,bigint,bigint,boolean)', 'execute')
        AND has_function_privilege('pg_read_binary_file(text)', 'execute')
        AND (current_setting('server_version_num')::int >= 160000
            OR pg_has_role('pg_checkpoint', 'usage'))
        AND has_function_privilege('pg_ls_dir(text,boolean,boolean)', 'execute')
        AND has_function_privilege('pg_stat_file(text,boolean)', 'execute'))
"""


def require_switchable(
    cluster: Cluster, standby: Source, system_identifier: int, *, rewinds: bool = True
) -> str:
    """Check that a standby follows this running primary, is near, and can take its place.

    Args:
        rewinds: whether pg_rewind brings this server back afterwards.

    Returns:
        The replication slot of the primary that it uses; empty for none.

    Raises:
        ReplicationError: it cannot.
        ServerNotRunningError: the primary does not run.
        ProgramError: it does not answer.
    """
    name = standby.server.name
    primary = ask_server(cluster, _OF_PRIMARY)
    if primary["recovery"]:
        raise ReplicationError(
            f"the server in {cluster.data_directory} is a standby itself",
            remedy="Run the command where the primary is, with -D of its data directory.",
        )
    if standby.system_identifier != system_identifier or not standby.is_standby:
        raise ReplicationError(
            f"the server {name} is no standby of {cluster.data_directory}",
            remedy=f"See who follows it: tde replication status -D {cluster.data_directory}",
        )
    found = standby.server.ask(_OF_STANDBY)
    receiver = found["receiver"] or {}
    reasons = [
        (rewinds and not primary["can_rewind"], "it has neither data checksums nor wal_log_hints"),
        (not found["may_promote"], f"the role of {name} may not call pg_promote()"),
        (
            rewinds and not found["may_rewind"],
            f"the role of {name} may not read files, as pg_rewind does",
        ),
        (receiver.get("status") is None, f"{name} receives nothing, or its role may not see that"),
        (receiver.get("status") != "streaming", f"{name} does not stream"),
        (receiver.get("timeline") != primary["timeline"], f"{name} is on another timeline"),
        (found["paused"], f"replay is paused on {name}"),
        (found["delay"] not in ("0", "0ms"), f"{name} replays later (recovery_min_apply_delay)"),
        (primary["position"] - (found["replayed"] or 0) > _MOST_BEHIND, f"{name} is far behind"),
        ((found["received"] or 0) > primary["position"] + _MOST_BEHIND, f"{name} is ahead of it"),
    ]
    for is_so, reason in reasons:
        if is_so:
            raise ReplicationError(
                f"{cluster.data_directory} cannot hand over to {name}: {reason}",
                remedy="Nothing was changed. Mend that, and repeat the command; a superuser may "
                "do and see all that it needs.",
            )
    return str(receiver.get("slot") or "")


def wait_until_received(cluster: Cluster, standby: Source, timeout: float) -> None:
    """Wait until a standby has, and has replayed, all of a primary that was shut down.

    Raises:
        ReplicationError: it has not in time, or the primary was not shut down but ended otherwise.
            Nothing was promoted.
    """
    control = read_control_data(cluster.data_directory, cluster.binaries, cluster.os_user)
    if control.state != _SHUT_DOWN:
        raise ReplicationError(
            f"the server in {cluster.data_directory} was not shut down ({control.state}), so "
            "nobody knows whether it has sent everything",
            remedy="Nothing was promoted, and it is started again. Its log says why.",
        )
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


def request_promotion(standby: Source) -> None:
    """Tell a standby to become a primary.

    Raises:
        ReplicationError: it refuses, or does not answer.
    """
    standby.server.ask("SELECT to_json(pg_promote(false))")


def wait_until_promoted(standby: Source, timeout: float) -> None:
    """Wait until it is a primary.

    Raises:
        ReplicationError: it is none in time, or does not answer.
    """
    deadline = time.monotonic() + timeout
    while standby.server.ask("SELECT to_json(pg_is_in_recovery())"):
        if time.monotonic() > deadline:
            raise ReplicationError(
                f"the standby {standby.server.name} was told to become a primary, and is none yet",
                remedy="Its log says why.",
            )
        time.sleep(_LOOK_SECONDS)
