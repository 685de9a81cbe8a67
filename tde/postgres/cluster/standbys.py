"""Keys before data: which keys the connected standbys have, before a new one is used.

A standby replays what its primary does with a key, but the key does not travel in WAL: one that
lacks it stops there. So its walreceiver says which keys it has when it connects, and the walsender
notes it in a file that lives as long as that process (``c_ext/interpose/policy/announced.h``).

Nobody who decrypts believes these files. Whoever changes one can have a key used that a standby
lacks, which then stops and says so.
"""

from __future__ import annotations

import re
import shlex
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg2

from tde.errors import DataDirectoryError, ReplicationError
from tde.machine.process_files import start_time
from tde.postgres.cluster.keymap import KeySource
from tde.postgres.cluster.landed_keys import known_map
from tde.postgres.cluster.links import tablespace_oids
from tde.postgres.cluster.questions import LET_CONNECT
from tde.postgres.facts import BUILT_IN_TABLESPACES
from tde.postgres.server.cluster_files import read_beginning
from tde.postgres.server.os_user import current_user_name
from tde.postgres.server.peer import connect_as_peer

if TYPE_CHECKING:
    from tde.keystore import KeyOwner
    from tde.postgres.cluster.cluster import Cluster

NOTES = "pg_stat_tmp/tde.standby."
"""Where a walsender notes what its client has said; its process id follows."""

_DIGITS = 12  # Of a key's id, as c_ext/interpose/keys/present.h says.
_LONGEST = 1 << 14
_WAL_ONLY, _MORE = "wal", "more"
_FORM = re.compile(
    r"(?:keys=(?P<keys>[0-9a-z,]*)\n)?"
    r"directory=(?P<directory>(?:/[\w/.-]*)?)\nplace=(?P<identity>[0-9a-f.-]*)\n"
    r"started=(?P<start>\d{1,20})\n",
    re.ASCII,
)
_LOOPBACK = re.compile(r"127\.[0-9.]+|::1")
_BACK_SECONDS = 30.0
_NOTE_SECONDS = 5.0
_LOOK_SECONDS = 0.1
# Numbers of an advisory lock: one command at a time asks, ends walsenders and uses a key.
_LOCK = (0x746465, 1)
# Whoever owns the database decides only what is answered, not what runs.
_OPTIONS = "-c search_path=pg_catalog -c statement_timeout=30s -c lock_timeout=30s"
# Logical subscribers get rows, and need no keys; a base backup is none of a standby's states.
_ROWS = """
SELECT r.pid, coalesce(r.application_name, ''), host(r.client_addr), r.state IS NOT NULL
FROM pg_stat_replication r JOIN pg_stat_activity a USING (pid)
WHERE a.datid IS NULL AND r.state IS DISTINCT FROM 'backup' AND r.state IS DISTINCT FROM 'startup'
ORDER BY 2, 1
"""
_IDLE_SLOTS = """
SELECT slot_name FROM pg_replication_slots
WHERE slot_type = 'physical' AND NOT active AND NOT temporary AND restart_lsn IS NOT NULL
    AND wal_status IS DISTINCT FROM 'lost'
ORDER BY 1
"""


@dataclass(frozen=True)
class ConnectedStandby:
    """A client that WAL is streamed to.

    Attributes:
        pid: of its walsender.
        name: its application_name.
        address: of its machine; None where it connects by the Unix socket.
        keys: what it calls the keys that it has; None when it does not say, as those of earlier
            releases.
        is_complete: whether it has no others.
        replays: False for one that only stores WAL, such as pg_receivewal.
        directory: of its keystore; empty when it does not say.
        keystore_identity: what only this very directory has; empty when it does not say.
        has_note: whether its walsender has noted anything, as it does with the first WAL.
    """

    pid: int
    name: str
    address: str | None
    keys: frozenset[str] | None
    is_complete: bool
    replays: bool
    directory: str
    keystore_identity: str
    has_note: bool

    @property
    def in_words(self) -> str:
        """The standby in messages."""
        where = "on this machine" if self.address is None else f"at {self.address}"
        return f"{self.name or 'unnamed'} {where}"

    @property
    def target(self) -> str:
        """What ``tde keystore sync`` calls its keystore."""
        directory = self.directory or "DIR"
        if self.address is None or _LOOPBACK.fullmatch(self.address) is not None:
            return directory
        host = f"[{self.address}]" if ":" in self.address else self.address
        return f"{host}:{directory}"

    def has(self, owner: KeyOwner) -> bool:
        """Whether it has said that it has a key; the first ones of all keystores need no saying."""
        if owner.key_id is not None:
            name = owner.key_id.hex[:_DIGITS]
        elif owner.oid:
            name = str(owner.oid)
        else:
            return True
        return self.keys is not None and name in self.keys

    def lacks(self, owners: Iterable[KeyOwner]) -> list[KeyOwner] | None:
        """Return which of some keys it lacks; None when nobody knows."""
        if not self.replays:
            return []
        missing = [owner for owner in owners if not self.has(owner)]
        return missing if self.keys is not None and (self.is_complete or not missing) else None


def connected_standbys(
    cluster: Cluster, connection: Mapping[str, object] | None = None
) -> list[ConnectedStandby]:
    """Return who is connected to a running server for WAL.

    Args:
        connection: arguments for ``psycopg2.connect`` that replace the cluster's own.

    Raises:
        ServerNotRunningError: there is no server.
        ReplicationError: it does not answer, or the role may not see who is connected.
    """
    with _connected(cluster, connection) as cursor:
        return _standbys(cluster, cursor)


def standby_of(cluster: Cluster, pid: int, name: str, address: str | None) -> ConnectedStandby:
    """Return what the client of a walsender has said."""
    found = _read_note(cluster, pid)
    said = [] if found is None or found["keys"] is None else found["keys"].split(",")
    return ConnectedStandby(
        pid=pid,
        name=name,
        address=address,
        keys=frozenset(said) - {_MORE, ""} if said else None,
        is_complete=_MORE not in said,
        replays=said != [_WAL_ONLY],
        directory="" if found is None else found["directory"],
        keystore_identity="" if found is None else found["identity"],
        has_note=found is not None,
    )


def require_no_others(cluster: Cluster, keystore: Path) -> None:
    """Check that no standby with a keystore of its own is connected, for who cannot wait for it.

    Args:
        keystore: of the cluster.

    Raises:
        ReplicationError: one is, which would lack a new key.
    """
    here = identity_of(keystore)
    for note in (cluster.data_directory / NOTES).parent.glob(f"{Path(NOTES).name}*"):
        number = note.name.rpartition(".")[2]
        found = standby_of(cluster, int(number), "", None) if number.isdecimal() else None
        # One that has said nothing of keys is of an older release.
        if (
            found is None
            or not found.has_note
            or found.keystore_identity == here
            or not found.replays
        ):
            continue
        raise ReplicationError(
            "a standby with a keystore of its own is connected, which would stop without the new "
            f"key (pg_stat_replication has it, with pid {number})",
            remedy="Use tde tablespace create, which makes the key first and says how to bring it.",
        )


def _read_note(cluster: Cluster, pid: int) -> re.Match[str] | None:
    """Return what a walsender that is still there has noted."""
    try:
        text = read_beginning(cluster.data_directory, f"{NOTES}{pid}", _LONGEST)
        found = _FORM.fullmatch(text.decode("ascii", "replace"))
        # Process ids are used again, by servers of a crash for example.
        return found if found is not None and int(found["start"]) == start_time(pid) else None
    except (OSError, DataDirectoryError):
        return None


def owners_of_standbys(cluster: Cluster) -> list[KeyOwner] | None:
    """Return whose keys a cluster's standbys may come to need; None for a plain cluster.

    Their pages keep their keys when the cluster is rekeyed, so those of a rekey are not in it.

    Raises:
        KeyMapError: the key map is missing or cannot be used.
        KeystoreError: the keystore cannot be inspected.
    """
    from tde.keystore.store.reading import list_owners

    marker = cluster.marker
    if marker is None:
        return None
    directory = cluster.data_directory
    keymap = known_map(directory, marker.keystore, None)
    entries = [keymap.find(oid) for oid in (*BUILT_IN_TABLESPACES, *tablespace_oids(directory))]
    owners = [
        entry.owner
        for entry in entries
        if entry is not None and entry.source is not KeySource.REKEYED
    ]
    current = keymap.wal_keys[-1:]
    owners += [one for one in list_owners(marker.keystore) if one.oid and one.key_id in current]
    return list(dict.fromkeys(owners))


@contextmanager
def asked_standbys(
    cluster: Cluster, keystore: Path, connection: Mapping[str, object] | None = None
) -> Iterator[StandbyQuestion]:
    """Prepare the question whether the standbys have a key, which is used in the body.

    Enter it before the key is made: whatever keeps the server from answering is known then.

    Args:
        keystore: where the key will be.
        connection: arguments for ``psycopg2.connect`` that replace the cluster's own.

    Raises:
        ServerNotRunningError: there is no server.
        ReplicationError: it does not answer, or another command asks the same for half a minute.
    """
    with _connected(cluster, connection) as cursor:
        try:
            cursor.execute("SELECT pg_advisory_lock(%s, %s)", _LOCK)
        except psycopg2.errors.LockNotAvailable as error:
            raise ReplicationError(
                f"another command asks the standbys of {cluster.data_directory} about a key",
                remedy="Repeat this one when it has ended.",
            ) from error
        except psycopg2.Error as error:
            raise _no_answer(cluster, error) from error
        _standbys(cluster, cursor)  # Whether this role may see them is known before a key is made.
        yield StandbyQuestion(cluster, keystore, cursor)


@dataclass(frozen=True)
class StandbyQuestion:
    """A connection by which the standbys of a server are asked."""

    cluster: Cluster
    keystore: Path
    cursor: Any

    def require(self, owner: KeyOwner, *, is_new: bool, also: str = "") -> None:
        """Check that every standby has a key, before it is used.

        What a standby has said when it connected may be older than the key, so its walsender is
        ended: the standby connects again at once, and says what it has now.

        Args:
            is_new: whether it was just made: then only who uses this very directory can have it.
            also: what else has to be done on a standby's machine.

        Raises:
            ReplicationError: a standby lacks it, does not say, or is not connected.
        """
        here = identity_of(self.keystore)
        before = [s for s in self._noted() if s.replays]
        lacking = [s for s in before if not s.has(owner)]
        # To ask somebody who says nothing again is of no use, and ends what he does.
        asked = [s for s in lacking if s.keys is not None]
        if is_new:
            asked = [s for s in asked if s.keystore_identity == here]
        away: list[ConnectedStandby] = []
        if lacking and len(asked) == len(lacking):
            lacking, away = self._ask_again(before, asked, owner)
        complaints = [_complaint(standby) for standby in lacking]
        complaints += [
            f"the standby {standby.in_words} was to connect again, and has not within "
            f"{_BACK_SECONDS:.0f} s"
            for standby in away
        ]
        idle = [str(slot) for (slot,) in _execute(self.cluster, self.cursor, _IDLE_SLOTS)]
        complaints += [
            f"nobody is connected to the replication slot {slot}, and whoever uses it may lack it"
            for slot in idle
        ]
        if complaints:
            targets = [s.target for s in (*lacking, *away) if s.keystore_identity != here]
            slots = "start the standbys of these slots, or drop the slots; " if idle else ""
            raise self._refusal(owner, complaints, targets, also + slots)

    def _noted(self) -> list[ConnectedStandby]:
        """Return who is connected, once each has been sent WAL, with which its words are noted."""
        deadline = time.monotonic() + _NOTE_SECONDS
        while True:
            found = _standbys(self.cluster, self.cursor)
            if all(s.has_note for s in found) or time.monotonic() > deadline:
                return found
            self._write_wal()
            time.sleep(_LOOK_SECONDS)

    def _refusal(
        self, owner: KeyOwner, complaints: list[str], targets: list[str], also: str
    ) -> ReplicationError:
        assert owner.key_id is not None
        quoted = " ".join(shlex.quote(target) for target in dict.fromkeys(targets or ["HOST:DIR"]))
        sync = f"tde keystore sync {quoted} -k {shlex.quote(str(self.keystore))}"
        return ReplicationError(
            f"the key {owner.file_name} is in the keystore, and the server does not use it yet: "
            f"{'; '.join(complaints)}",
            remedy=f"Bring it there: {sync}; {also}then repeat the command with --key "
            f"{owner.key_id.hex}. With --no-wait it is used at once, and a standby without it "
            "stops.",
        )

    def _ask_again(
        self, before: list[ConnectedStandby], asked: list[ConnectedStandby], owner: KeyOwner
    ) -> tuple[list[ConnectedStandby], list[ConnectedStandby]]:
        """Have standbys connect again; return who lacks the key, and who is not back in time."""
        old = {standby.pid for standby in asked}
        for pid in old:
            _execute(self.cluster, self.cursor, f"SELECT pg_terminate_backend({pid})")
        deadline = time.monotonic() + _BACK_SECONDS
        wanted = Counter((standby.name, standby.address) for standby in before)
        stayed = {standby.pid for standby in before}
        while True:
            self._write_wal()
            now = [s for s in _standbys(self.cluster, self.cursor) if s.pid not in old]
            back = Counter((s.name, s.address) for s in now if s.has_note or s.pid in stayed)
            if not wanted - back:
                return [s for s in now if s.replays and not s.has(owner)], []
            if time.monotonic() > deadline:
                return [], [s for s in asked if (s.name, s.address) in wanted - back]
            time.sleep(_LOOK_SECONDS)

    def _write_wal(self) -> None:
        """Give the walsenders something to send: a note is made with the first bytes of WAL."""
        in_recovery = _execute(self.cluster, self.cursor, "SELECT pg_is_in_recovery()")
        if in_recovery == [(False,)]:
            message = "SELECT pg_logical_emit_message(true, 'tde', '')"
            _execute(self.cluster, self.cursor, message)


def identity_of(keystore: Path) -> str:
    """Return what only a keystore's very directory has, as the standbys that use it say it."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    status = keystore.stat()
    return f"{boot}.{status.st_dev:x}.{status.st_ino:x}"


def _complaint(standby: ConnectedStandby) -> str:
    if standby.keys is None:
        return (
            f"the standby {standby.in_words} does not say which keys it has, as those of earlier "
            "releases"
        )
    return f"the standby {standby.in_words} lacks it"


def _standbys(cluster: Cluster, cursor: Any) -> list[ConnectedStandby]:
    rows = _execute(cluster, cursor, _ROWS)
    if not all(is_visible for *_, is_visible in rows):
        raise ReplicationError(
            "standbys are connected, and this role may not see what they do",
            remedy="Name a superuser with --username.",
        )
    return [standby_of(cluster, pid, name, address) for pid, name, address, _ in rows]


@contextmanager
def _connected(cluster: Cluster, connection: Mapping[str, object] | None) -> Iterator[Any]:
    """Yield a cursor, each statement of which is a transaction of its own."""
    parameters = {**cluster.connection_parameters(), **(connection or {}), "options": _OPTIONS}
    try:
        made = connect_as_peer(parameters)
    except psycopg2.Error as error:
        raise _no_answer(cluster, error) from error
    with closing(made):
        made.autocommit = True
        with made.cursor() as cursor:
            yield cursor


def _execute(cluster: Cluster, cursor: Any, statement: str) -> list[Any]:
    try:
        cursor.execute(statement)
        return list(cursor.fetchall())
    except psycopg2.Error as error:
        raise _no_answer(cluster, error) from error


def _no_answer(cluster: Cluster, error: psycopg2.Error) -> ReplicationError:
    return ReplicationError(
        f"the server in {cluster.data_directory} does not say which standbys are connected: "
        f"{str(error).strip()}",
        remedy=f"{LET_CONNECT.format(current_user_name())} --no-wait does not ask.",
    )
