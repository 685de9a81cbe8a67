"""Children that answer by a pipe, when their parent is interrupted."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import pytest

from tde.child_process import Signals, ask_child, interrupt


def wait_for_ever(writer: int, signals: Signals) -> None:
    del writer
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, signals)
    time.sleep(600)


def read_all(reader: int) -> bytes:
    with os.fdopen(reader, "rb", closefd=False) as answers:
        return answers.read()


def test_the_answer_and_its_end() -> None:
    before = sorted(Path("/proc/self/fd").iterdir())
    child, answer = ask_child(lambda writer, _: bool(os.write(writer, b"it")), read_all, interrupt)
    assert answer == b"it"
    assert os.waitpid(child, 0) == (child, 0)
    assert sorted(Path("/proc/self/fd").iterdir()) == before


def test_an_interruption_right_after_the_fork_ends_the_child(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The fault: nobody waited for the child then, which went on asking at the terminal."""
    fork, ended = os.fork, []

    def fork_and_be_interrupted() -> int:
        child = fork()
        if child:
            # To this thread, which has it blocked; others of pytest may not have.
            signal.pthread_kill(threading.get_ident(), signal.SIGINT)
        return child

    def end(child: int) -> None:
        os.kill(child, signal.SIGINT)
        ended.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))

    monkeypatch.setattr(os, "fork", fork_and_be_interrupted)
    signals = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    with pytest.raises(KeyboardInterrupt):
        ask_child(wait_for_ever, read_all, end)
    assert ended == [-signal.SIGINT]
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == signals
