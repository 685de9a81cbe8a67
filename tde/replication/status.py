"""What a server knows of those that it follows and that follow it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from tde.errors import KeyMapError, KeystoreError
from tde.postgres.cluster.questions import ask_server
from tde.postgres.cluster.standbys import owners_of_standbys, standby_of

if TYPE_CHECKING:
    from tde.keystore import KeyOwner
    from tde.postgres.cluster.cluster import Cluster

# What a server has of WAL, of its own or received: a standby may have standbys itself.
_END = """CASE WHEN pg_is_in_recovery()
    THEN greatest(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn())
    ELSE pg_current_wal_lsn() END"""
_QUESTION = f"""
SELECT json_build_object(
    'is_standby', pg_is_in_recovery(),
    'position', ({_END})::text,
    'standbys', (SELECT coalesce(json_agg(json_build_object(
        'pid', pid,
        'name', coalesce(application_name, ''),
        'address', host(client_addr),
        'state', state,
        'sync_state', sync_state,
        'received_lag_bytes', pg_wal_lsn_diff({_END}, flush_lsn),
        'replayed_lag_bytes', pg_wal_lsn_diff({_END}, replay_lsn),
        'replayed_lag_seconds', extract(epoch FROM replay_lag)::float)
        ORDER BY application_name, pid), '[]') FROM pg_stat_replication),
    'slots', (SELECT coalesce(json_agg(json_build_object(
        'name', slot_name,
        'active', active,
        'kept_bytes', pg_wal_lsn_diff({_END}, restart_lsn),
        'wal_status', wal_status)
        ORDER BY slot_name), '[]') FROM pg_replication_slots WHERE slot_type = 'physical'),
    'receiver', (SELECT json_build_object(
        'state', status,
        'host', sender_host,
        'port', sender_port,
        'slot', slot_name) FROM pg_stat_wal_receiver),
    'replayed_lag_bytes', CASE WHEN pg_is_in_recovery()
        THEN pg_wal_lsn_diff({_END}, pg_last_wal_replay_lsn()) END,
    'replay_paused', CASE WHEN pg_is_in_recovery() THEN pg_is_wal_replay_paused() END,
    'last_replayed_seconds', CASE WHEN pg_is_in_recovery()
        THEN extract(epoch FROM clock_timestamp() - pg_last_xact_replay_timestamp())::float END)
"""


@dataclass(frozen=True)
class Follower:
    """A standby, or a receiver of WAL, that is connected.

    Attributes:
        name: its application_name.
        address: of its machine; None where it connects by the Unix socket.
        state: as in pg_stat_replication, for example ``streaming``.
        sync_state: ``async``, ``sync``, ``potential`` or ``quorum``.
        received_lag_bytes: what it has not yet on its disk; None until it has said so.
        replayed_lag_bytes: what its sessions do not see yet.
        replayed_lag_seconds: how long the last commits took until they were seen there; None where
            nothing was written lately.
        lacks_keys: the files of the keystore that it lacks, of those that this server uses; it
            stops where it needs one. None when nobody knows.
    """

    name: str
    address: str | None
    state: str | None
    sync_state: str | None
    received_lag_bytes: int | None
    replayed_lag_bytes: int | None
    replayed_lag_seconds: float | None
    lacks_keys: tuple[str, ...] | None


@dataclass(frozen=True)
class Slot:
    """A physical replication slot.

    Attributes:
        kept_bytes: WAL that the server keeps for it; None when it has kept none yet.
        wal_status: as in pg_replication_slots; ``lost`` when the standby must be made again.
    """

    name: str
    active: bool
    kept_bytes: int | None
    wal_status: str | None


@dataclass(frozen=True)
class Receiver:
    """The connection of a standby to the server that it follows.

    Attributes:
        state: as in pg_stat_wal_receiver, for example ``streaming``; None, like the others, for a
            role that may not see it.
    """

    state: str | None
    host: str | None
    port: int | None
    slot: str | None


@dataclass(frozen=True)
class ReplicationStatus:
    """One server's part in replication.

    Attributes:
        is_encrypted: whether it has keys, of which standbys could lack one.
        position: the end of the WAL that it has.
        receiver: of a standby; None when it receives nothing now.
        replayed_lag_bytes: of a standby: received, and not replayed yet.
        last_replayed_seconds: of a standby: how long ago the last transaction that it has replayed
            was committed; it grows also while nothing is written.
    """

    is_encrypted: bool
    is_standby: bool
    position: str
    standbys: tuple[Follower, ...]
    slots: tuple[Slot, ...]
    receiver: Receiver | None
    replayed_lag_bytes: int | None
    replay_paused: bool | None
    last_replayed_seconds: float | None

    @property
    def is_well(self) -> bool:
        """Whether a standby receives and replays, slots are of use, and nobody lacks a key.

        A slot that nobody uses keeps WAL on a standby as well, where nobody looks for it.
        """
        if any(slot.wal_status == "lost" for slot in self.slots):
            return False
        if any(standby.lacks_keys for standby in self.standbys):
            return False
        if not self.is_standby:
            return True
        return (
            self.receiver is not None
            and self.receiver.state in ("streaming", None)
            and not self.replay_paused
            and all(slot.active for slot in self.slots)
        )

    def as_json(self) -> dict[str, Any]:
        """Return the document that ``--json`` prints."""
        return {**asdict(self), "is_well": self.is_well}


def replication_status(cluster: Cluster, *, username: str | None = None) -> ReplicationStatus:
    """Ask a running server about replication.

    Raises:
        ServerNotRunningError: there is no server.
        ProgramError: it does not answer.
    """
    found = ask_server(cluster, _QUESTION, username=username)
    receiver = found["receiver"]
    used = _used(cluster)
    return ReplicationStatus(
        is_encrypted=cluster.marker is not None,
        **{
            **found,
            "standbys": tuple(_follower(cluster, used, **one) for one in found["standbys"]),
            "slots": tuple(Slot(**one) for one in found["slots"]),
            "receiver": None if receiver is None else Receiver(**receiver),
        },
    )


def _used(cluster: Cluster) -> list[KeyOwner] | None:
    """Return what its standbys need; None where the keystore cannot be looked at just now."""
    try:
        return owners_of_standbys(cluster) or []
    except (KeystoreError, KeyMapError, OSError):
        return None


def _follower(cluster: Cluster, used: list[KeyOwner] | None, pid: int, **told: Any) -> Follower:
    said = standby_of(cluster, pid, told["name"], told["address"])
    lacking = None if used is None else said.lacks(used)
    files = None if lacking is None else tuple(owner.file_name for owner in lacking)
    return Follower(**told, lacks_keys=files)
