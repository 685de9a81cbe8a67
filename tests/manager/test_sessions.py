"""How long a session lasts, and how often a passphrase may be tried: on a clock of the test."""

from __future__ import annotations

import pytest

pytest.importorskip("uvicorn")

from tde.manager.security.limits import Limit
from tde.manager.security.sessions import Role, Sessions

HOUR = 3600.0


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_session_ends_after_8_hours_in_which_nobody_does_anything() -> None:
    clock = Clock()
    sessions = Sessions(clock)
    cookie, _ = sessions.begin(Role.ADMINISTRATOR)
    clock.now += 8 * HOUR - 1
    assert sessions.find(cookie, is_used=False) is not None  # A page that asks by itself.
    clock.now += 1
    assert sessions.find(cookie) is None


def test_a_session_ends_after_24_hours_whatever_is_done() -> None:
    clock = Clock()
    sessions = Sessions(clock)
    cookie, _ = sessions.begin(Role.READER)
    for _ in range(24):
        assert sessions.find(cookie) is not None
        clock.now += HOUR
    assert sessions.find(cookie) is None


def test_a_limit_lets_one_more_through_when_the_first_is_old() -> None:
    clock = Clock()
    limit = Limit(5, 60, clock)
    assert [limit.wait("one") for _ in range(5)] == [0] * 5
    assert limit.wait("one") == 60
    assert limit.wait("another") == 0
    clock.now += 60
    assert limit.wait("one") == 0
