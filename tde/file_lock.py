"""Waiting for the lock of an open file, and not without end: its holder may be stopped."""

from __future__ import annotations

import fcntl
import time

_POLL = 0.02  # Seconds.


def lock_until(descriptor: int, deadline: float) -> bool:
    """Lock a file against all others who do; False when somebody still has it at the deadline.

    Args:
        deadline: of ``time.monotonic()``; one that is past only tries.

    Raises:
        OSError: the file system cannot lock it.
    """
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return False
            time.sleep(_POLL)
        else:
            return True
