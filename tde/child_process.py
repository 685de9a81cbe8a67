"""Children of this process that go on with its own code, answer by a pipe, and return nowhere."""

from __future__ import annotations

import ctypes
import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

Answer = TypeVar("Answer")
Signals = set[int | signal.Signals]
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)
_SECONDS_TO_HEED = 1.0
_POLL = 0.02
_KILLED = 128  # As shells say it, plus the signal.


def ask_child(
    serve: Callable[[int, Signals], None],
    read: Callable[[int], Answer],
    end: Callable[[int], None],
) -> tuple[int, Answer]:
    """Start a child that does nothing but ``serve``, and read its answer.

    Args:
        serve: gets the descriptor for its answer, and the signals that it is to block. Until it
            sets these all are blocked: an interruption must not raise before it is where nothing
            gets out of it.
        read: gets the descriptor to read the answer from, and leaves it open.
        end: gets the process id when ``read`` has raised, or was interrupted, and ends the child.

    Returns:
        The process id, which is the caller's to wait for, and what ``read`` has returned.

    Raises:
        OSError: there can be no more processes or descriptors.
    """
    reader, writer = os.pipe2(os.O_CLOEXEC)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        try:
            child = os.fork()
            if child == 0:
                try:
                    serve(writer, before)
                finally:
                    # Neither the buffers nor the exit handlers of the parent are the child's.
                    os._exit(0)
        finally:
            os.close(writer)
        try:
            # Not a moment earlier: the child asks, and who interrupts this process means both.
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            return child, read(reader)
        except BaseException:
            end(child)
            raise
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        os.close(reader)


def go_on_in_child() -> None:
    """Let a child go on, in a memory of its own; this process waits for it, and ends as it does.

    An interruption is the child's alone.
    """
    parent = os.getpid()
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    child = os.fork()
    if child == 0:
        if not end_with(parent, signal.SIGKILL):
            os._exit(1)
        signal.signal(signal.SIGINT, before)
        return
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    os._exit(code if code >= 0 else _KILLED - code)


def end_with(parent: int, number: int) -> bool:
    """Let a signal end this child when its parent ends; False when that has ended already."""
    _libc.prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0)
    return os.getppid() == parent


def wait_for(child: int) -> None:
    """Wait until a child has ended; an interruption of this process is passed on to it."""
    while True:
        try:
            os.waitpid(child, 0)
            return
        except KeyboardInterrupt:
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGINT)


def interrupt(child: int) -> None:
    """End a child because this process was interrupted, and wait for it.

    It is not killed: a terminal on which it has turned the echo off would stay like that. At that
    terminal both were interrupted, and a second time would come while it turns the echo on again.
    So it has a moment before it is told.
    """
    until = time.monotonic() + _SECONDS_TO_HEED
    with suppress(KeyboardInterrupt):  # Who interrupts again waits no longer.
        while time.monotonic() < until:
            if os.waitpid(child, os.WNOHANG)[0] == child:
                return
            time.sleep(_POLL)
    with suppress(ProcessLookupError):
        os.kill(child, signal.SIGINT)
    wait_for(child)
