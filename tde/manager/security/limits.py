"""How often something may be tried: passphrases of a keystore, tokens."""

from __future__ import annotations

import time
from collections.abc import Callable
from threading import Lock


class Limit:
    """So many tries in so many seconds, for each key.

    Args:
        tries: that are let through.
        seconds: after which one more is.
    """

    def __init__(
        self, tries: int, seconds: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._tries = tries
        self._seconds = seconds
        self._clock = clock
        self._lock = Lock()
        self._times: dict[str, list[float]] = {}

    def wait(self, key: str) -> float:
        """Count a try; return 0, or the seconds to wait, and then it is not counted."""
        now = self._clock()
        with self._lock:
            times = [one for one in self._times.get(key, []) if now - one < self._seconds]
            if len(times) >= self._tries:
                self._times[key] = times
                return max(times[0] + self._seconds - now, 1.0)
            self._times[key] = [*times, now]
            # Of keys that nobody tries any more nothing is kept.
            for other in [k for k, t in self._times.items() if now - t[-1] >= self._seconds]:
                del self._times[other]
            return 0.0
