"""Ending a run early without leaving servers or files behind.

Against SIGKILL nothing can be done: the servers of a run that is killed so keep running in
their directory, ``tde-bench-*``, until somebody stops them.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def signals_interrupt() -> Iterator[None]:
    """Make SIGTERM and SIGHUP, like SIGINT, raise KeyboardInterrupt in the main thread.

    By default they would end the program at once, without running any clean-up.
    """

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt(signal.Signals(number).name)

    with _handled_by(interrupt):
        yield


@contextmanager
def signals_wait() -> Iterator[None]:
    """Ignore the same signals while servers are stopped and files are removed.

    A second, impatient Ctrl-C must not abort the clean-up halfway. Child processes started
    here inherit the ignored signals, so nothing long-lived may be started inside.
    """
    with _handled_by(signal.SIG_IGN):
        yield


@contextmanager
def _handled_by(
    handler: Callable[[int, FrameType | None], None] | signal.Handlers,
) -> Iterator[None]:
    previous = {number: signal.signal(number, handler) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, before in previous.items():
            signal.signal(number, before)
