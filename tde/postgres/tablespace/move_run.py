"""Several sessions that move objects, watched by the thread that has started them."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import psycopg2

from tde.errors import TdeError
from tde.postgres.tablespace.move_objects import Movable
from tde.postgres.tablespace.move_schedule import Outcome, Schedule, Verdict
from tde.postgres.tablespace.move_session import Connect, LackOfRoom, Mover, WaitedFor

_LOOK_AGAIN = 0.2  # Seconds.
_PATIENCE = 5.0  # Seconds after which the server is asked what an object waits for.

# Only a concurrent build waits longer than the timeout for locks.
_WAITS = """
SELECT p.pid, 'pid ' || a.pid || ' (' || coalesce(nullif(a.application_name, ''), a.backend_type)
    || coalesce(', ' || a.state, '') || ')'
FROM pg_stat_progress_create_index p
JOIN pg_stat_activity a ON a.pid = p.current_locker_pid
WHERE p.pid = ANY (%s)
"""


@dataclass(frozen=True)
class MoveOptions:
    """How objects are moved.

    Attributes:
        databases: names of those that are looked into; empty for all that allow connections.
        jobs: number of sessions.
        rate: bytes a second, on average; ``None`` for as many as possible.
        lock_timeout: seconds for which a session waits for a lock.
        attempts: how often an object is tried whose lock cannot be had.
        to_plaintext: whether rows may get from an encrypted tablespace into one in plaintext.
    """

    databases: Sequence[str] = ()
    jobs: int = 1
    rate: float | None = None
    lock_timeout: float = 2.0
    attempts: int = 8
    to_plaintext: bool = False


@dataclass(frozen=True)
class MoveProgress:
    """How far a run is.

    Attributes:
        objects: how many it moves.
        done: how many of them need no more work.
        current: the objects that are being moved.
        waits: what they wait for, in words, if that takes long.
    """

    objects: int
    done: int
    bytes: int
    bytes_done: int
    current: tuple[Movable, ...]
    waits: tuple[str, ...]


@dataclass(frozen=True)
class Run:
    """What became of the objects of a run, by :attr:`Movable.key`."""

    outcomes: Mapping[tuple[str, int], Outcome]
    interrupted: bool

    @property
    def ended(self) -> bool:
        """Whether nothing more is to be tried."""
        is_full = any(one.verdict is Verdict.FULL for one in self.outcomes.values())
        return self.interrupted or is_full


class _Session(threading.Thread):
    """Moves what the schedule hands out, until it hands out nothing more."""

    def __init__(self, mover: Mover, schedule: Schedule) -> None:
        # Whoever presses Ctrl-C a second time does not wait for it.
        super().__init__(daemon=True)
        self.mover = mover
        self.current: tuple[Movable, float] | None = None
        self.error: Exception | None = None
        self._schedule = schedule

    def run(self) -> None:
        try:
            while (movable := self._schedule.take()) is not None:
                self.current = (movable, time.monotonic())
                self._schedule.finish(movable, self.mover.move(movable))
                self.current = None
        except Exception as error:
            self.error = error
            self._schedule.stop()
        finally:
            self.mover.close()


def run_sessions(
    movables: Sequence[Movable],
    connect: Connect,
    source: int,
    target: str,
    options: MoveOptions,
    progress: Callable[[MoveProgress], None],
    lack_of_room: LackOfRoom,
) -> Run:
    """Move objects from the tablespace with the OID ``source`` to that with a quoted name.

    Raises:
        KeyboardInterrupt: the second one; the first ends the run.
    """
    schedule = Schedule(movables, attempts=options.attempts, rate=options.rate)
    waited_for: WaitedFor = {}
    sessions = [
        _Session(
            Mover(connect, source, target, options.lock_timeout, waited_for, lack_of_room),
            schedule,
        )
        for _ in range(min(options.jobs, len(movables)))
    ]
    interrupted = False
    with contextlib.closing(_Monitor(connect)) as monitor:
        try:
            for session in sessions:
                session.start()
            while any(session.is_alive() for session in sessions):
                time.sleep(_LOOK_AGAIN)
                progress(_progress(movables, schedule.outcomes, sessions, monitor))
        except KeyboardInterrupt:
            interrupted = True
            schedule.stop()
            while any(session.is_alive() for session in sessions):
                for session in sessions:
                    session.mover.stop()
                time.sleep(_LOOK_AGAIN)
    for session in sessions:
        if session.error is not None:
            raise session.error
    return Run(schedule.outcomes, interrupted)


class _Monitor:
    """Asks the server what sessions wait for; a connection is made when it is needed."""

    def __init__(self, connect: Connect) -> None:
        self._connect = connect
        self._connection: Any = None

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()

    def waits(self, sessions: Sequence[_Session]) -> tuple[str, ...]:
        now = time.monotonic()
        slow = {
            session.mover.pid: current[0].name
            for session in sessions
            if (current := session.current) is not None and now - current[1] > _PATIENCE
        }
        if not slow:
            return ()
        try:
            if self._connection is None:
                self._connection = self._connect(None)
            with self._connection.cursor() as cursor:
                cursor.execute(_WAITS, ([pid for pid in slow if pid is not None],))
                return tuple(f"{slow[pid]} waits for {who}" for pid, who in cursor.fetchall())
        except (psycopg2.Error, TdeError):
            return ()  # The sessions will tell what has become of the server.


def _progress(
    movables: Sequence[Movable],
    outcomes: Mapping[tuple[str, int], Outcome],
    sessions: Sequence[_Session],
    monitor: _Monitor,
) -> MoveProgress:
    now = dict(outcomes)
    done = [m for m in movables if m.key in now and now[m.key].verdict is not Verdict.LOCKED]
    return MoveProgress(
        objects=len(movables),
        done=len(done),
        bytes=sum(m.bytes for m in movables),
        bytes_done=sum(m.bytes for m in done),
        current=tuple(current[0] for s in sessions if (current := s.current) is not None),
        waits=monitor.waits(sessions),
    )
