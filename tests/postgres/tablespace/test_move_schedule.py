"""What a move hands out to its sessions, and when, without a server."""

from __future__ import annotations

import itertools
import threading
from types import SimpleNamespace

import pytest

from tde.postgres.tablespace import move_schedule
from tde.postgres.tablespace.move_objects import Kind, Movable
from tde.postgres.tablespace.move_schedule import Outcome, Schedule, Verdict

STEP = 1 / 64  # Seconds by which a look at the clock makes it later.


class Clock:
    """A clock that goes on only when somebody looks at it, or is told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        self.now += STEP
        return self.now


@pytest.fixture
def clock(monkeypatch):
    made = Clock()
    monkeypatch.setattr(move_schedule, "time", SimpleNamespace(monotonic=made.monotonic))
    monkeypatch.setattr(move_schedule, "_LOOK_AGAIN", 0)
    return made


def test_no_two_sessions_get_what_belongs_to_one_table():
    table = Movable("shop", 1, 1, Kind.TABLE, "t", 10)
    index = Movable("shop", 2, 1, Kind.INDEX, "i", 5, concurrently=True)
    other = Movable("office", 3, 1, Kind.TABLE, "t", 20)
    schedule = Schedule([table, index, other], attempts=1, rate=None)
    assert schedule.take() == index
    assert schedule.take() == other
    taken: list[Movable | None] = []
    waiting = threading.Thread(target=lambda: taken.append(schedule.take()))
    waiting.start()
    waiting.join(0.3)
    assert taken == []
    schedule.finish(index, Outcome(Verdict.MOVED))
    waiting.join(10)
    assert taken == [table]


@pytest.mark.parametrize(("copying", "apart"), [(0.5, 2.0), (3.0, 3.0)])
def test_a_rate_counts_from_the_beginning_of_each_copy(clock, copying, apart):
    """A copy that takes longer than the rate asks for is followed by the next at once."""
    tables = [Movable("shop", number, number, Kind.TABLE, "t", 100) for number in range(1, 5)]
    schedule = Schedule(tables, attempts=1, rate=50.0)
    taken = []
    while (table := schedule.take()) is not None:
        taken.append(clock.now)
        clock.now += copying
        schedule.finish(table, Outcome(Verdict.MOVED))
        ended = clock.now
    between = [later - earlier for earlier, later in itertools.pairwise(taken)]
    assert between == pytest.approx([apart] * 3, abs=4 * STEP)
    # What was copied last is not paid for.
    assert clock.now == pytest.approx(ended, abs=4 * STEP)


def test_what_was_not_copied_is_not_paid_for(clock):
    tables = [Movable("shop", number, number, Kind.TABLE, "t", 100) for number in range(1, 3)]
    schedule = Schedule(tables, attempts=1, rate=50.0)
    for _ in tables:
        table = schedule.take()
        assert table is not None
        schedule.finish(table, Outcome(Verdict.GONE))
    assert schedule.take() is None
    assert clock.now < 1
