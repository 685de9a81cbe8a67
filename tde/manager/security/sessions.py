"""Sessions: a token that is used once becomes a cookie.

Tokens and cookies are random, 256 bits each. Only their hashes are kept, in memory: who reads that
cannot log in, and with the manager all sessions end.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from threading import Lock

COOKIE = "tde_manager"
_IDLE_SECONDS = 8 * 3600.0
_LONGEST_SECONDS = 24 * 3600.0
_MOST = 100


class Role(str, Enum):
    """What a session may do."""

    ADMINISTRATOR = "administrator"
    READER = "reader"


@dataclass
class Session:
    """One browser.

    Attributes:
        csrf: what forms have to send along.
        began, seen: of the clock.
    """

    role: Role
    csrf: str = field(repr=False)
    began: float
    seen: float

    @property
    def may_change(self) -> bool:
        """Whether it may do more than look."""
        return self.role is Role.ADMINISTRATOR

    def is_own(self, csrf: str) -> bool:
        """Whether a form is one of this session's."""
        return hmac.compare_digest(self.csrf.encode(), csrf.encode(errors="replace"))


class Sessions:
    """All of them."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = Lock()
        self._tokens: dict[bytes, Role] = {}
        self._sessions: dict[bytes, Session] = {}

    def new_token(self, role: Role) -> str:
        """Return a token that lets one browser in, once."""
        token = secrets.token_urlsafe(32)
        with self._lock:
            self._tokens[_hash(token)] = role
        return token

    def exchange(self, token: str) -> tuple[str, Session] | None:
        """Return a session and its cookie for a token that nobody has used yet."""
        with self._lock:
            role = self._tokens.pop(_hash(token), None)
            return None if role is None else self._begin(role)

    def begin(self, role: Role) -> tuple[str, Session]:
        """Return a session for who has proven something else, and its cookie."""
        with self._lock:
            return self._begin(role)

    def _begin(self, role: Role) -> tuple[str, Session]:
        now = self._clock()
        self._forget_old(now)
        cookie = secrets.token_urlsafe(32)
        session = Session(role, secrets.token_urlsafe(32), now, now)
        self._sessions[_hash(cookie)] = session
        return cookie, session

    def find(self, cookie: str, *, is_used: bool = True) -> Session | None:
        """Return the session of a cookie, unless it has ended.

        Args:
            is_used: whether somebody does something; what a page asks by itself keeps none alive.
        """
        now = self._clock()
        with self._lock:
            self._forget_old(now)
            session = self._sessions.get(_hash(cookie))
            if session is not None and is_used:
                session.seen = now
            return session

    def end(self, cookie: str) -> None:
        """End a session."""
        with self._lock:
            self._sessions.pop(_hash(cookie), None)

    def _forget_old(self, now: float) -> None:
        kept = {
            key: one
            for key, one in self._sessions.items()
            if now - one.seen < _IDLE_SECONDS and now - one.began < _LONGEST_SECONDS
        }
        # More browsers than people: the ones that were quiet longest go first.
        newest = sorted(kept, key=lambda key: kept[key].seen)[-_MOST:]
        self._sessions = {key: kept[key] for key in newest}


def _hash(text: str) -> bytes:
    return hashlib.sha256(text.encode(errors="replace")).digest()
