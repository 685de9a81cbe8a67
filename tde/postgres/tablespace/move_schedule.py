"""Which object is moved next, and when.

Small ones come first: what is wrong with all of them, such as a standby that lacks the key, shows
at little cost, and whoever has to stop has most of the objects behind them. Partitioned tables come
before everything, so that partitions that are made meanwhile are made in the new place.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

from tde.postgres.tablespace.move_objects import Movable

_FIRST_PAUSE = 1.0  # Seconds after the first attempt; it doubles with each.
_LONGEST_PAUSE = 30.0
_LOOK_AGAIN = 0.1


class Verdict(str, Enum):
    """What has become of an object."""

    MOVED = "moved"
    GONE = "gone"  # It was dropped, or moved by somebody else.
    LOCKED = "locked"
    FAILED = "failed"
    FULL = "full"  # The new place has no room for it, and nothing more is tried.
    STOPPED = "stopped"


@dataclass(frozen=True)
class Outcome:
    """What one attempt to move an object has led to.

    Attributes:
        seconds: how long it took.
        reason: of a lock, who holds it; of a failure, what the server says.
    """

    verdict: Verdict
    seconds: float = 0.0
    reason: tuple[str, ...] = ()


def in_order(movables: Iterable[Movable]) -> list[Movable]:
    """Return objects in the order in which they are tried."""
    return sorted(movables, key=lambda m: (not m.in_catalog_only, m.bytes, m.oid))


@dataclass
class _Waiting:
    movable: Movable
    attempts: int = 0
    not_before: float = 0.0

    @property
    def table(self) -> tuple[str, int]:
        return self.movable.database, self.movable.table


class Schedule:
    """Hands out objects to several sessions, never two of one table.

    Args:
        attempts: how often an object is tried whose lock cannot be had.
        rate: bytes a second that are copied, on average; ``None`` for as many as possible.

    Attributes:
        outcomes: what the last attempt has led to, by :attr:`Movable.key`.
    """

    def __init__(self, movables: Iterable[Movable], *, attempts: int, rate: float | None) -> None:
        self._waiting = [_Waiting(movable) for movable in in_order(movables)]
        self._busy: dict[tuple[str, int], tuple[_Waiting, float]] = {}
        self._attempts = attempts
        self._rate = rate
        self._resume_at = 0.0  # When the rate allows the next copy.
        self._stopped = False
        self._changed = threading.Condition()
        self.outcomes: dict[tuple[str, int], Outcome] = {}

    def take(self) -> Movable | None:
        """Wait for an object that may be moved now; ``None`` when there is nothing left to do."""
        with self._changed:
            while not self._stopped and (self._waiting or self._busy):
                now = time.monotonic()
                ready = self._ready(now)
                if ready is not None:
                    self._waiting.remove(ready)
                    self._busy[ready.table] = (ready, now)
                    return ready.movable
                self._changed.wait(_LOOK_AGAIN)
            return None

    def _ready(self, now: float) -> _Waiting | None:
        if now < self._resume_at:
            return None
        return next(
            (w for w in self._waiting if w.not_before <= now and w.table not in self._busy), None
        )

    def finish(self, movable: Movable, outcome: Outcome) -> None:
        """Say what has become of an object; one that is locked comes again.

        Where a disk is full, the next one is larger, and what was moved before is written there.
        """
        with self._changed:
            waiting, begun = self._busy.pop((movable.database, movable.table))
            waiting.attempts += 1
            self.outcomes[movable.key] = outcome
            if outcome.verdict is Verdict.FULL:
                self._stopped = True
            if outcome.verdict is Verdict.LOCKED and waiting.attempts < self._attempts:
                pause = min(_FIRST_PAUSE * 2 ** (waiting.attempts - 1), _LONGEST_PAUSE)
                waiting.not_before = time.monotonic() + pause
                self._waiting.append(waiting)
            if outcome.verdict is Verdict.MOVED and self._rate is not None:
                self._resume_at = max(self._resume_at, begun) + movable.bytes / self._rate
            self._changed.notify_all()

    def stop(self) -> None:
        """Hand out nothing more."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
