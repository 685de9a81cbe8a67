"""Signals that end a command as Ctrl-C does, so that it takes back what it has begun."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

_ENDING = (signal.SIGTERM, signal.SIGHUP)


@contextmanager
def ended_as_by_ctrl_c() -> Iterator[None]:
    """Let SIGTERM and the end of the terminal do what Ctrl-C does, unless they are ignored."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    wanted = [number for number in _ENDING if signal.getsignal(number) is not signal.SIG_IGN]
    earlier = {number: signal.signal(number, interrupt) for number in wanted}
    try:
        yield
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)
