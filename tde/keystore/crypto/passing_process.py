"""Work on a passphrase in a process that passes, and takes its copies of the passphrase along.

Python and the libraries below it copy what they work on: what was typed is a ``str``, the variants
of a wrong passphrase are ``bytes``, and OpenSSL gets the input of Argon2id in a block of parameters
that it frees as it is. No copy can be wiped, and all of them stay in the heap for as long as the
process lives, which for `tde pg start` may be a long recovery. The kernel clears the memory of a
process that has ended before it gives it to another. So the commands of ``tde`` let a child do
that work; what they have themselves is one buffer, which they wipe.

A library must not fork unasked, because its process may have threads and gigabytes. So this is off
until :func:`use_passing_processes` is called, and then the work is done here.
"""

from __future__ import annotations

import os
import pickle
import signal
from collections.abc import Callable
from typing import Any, TypeVar

from tde.child_process import Signals, ask_child, end_with, interrupt, wait_for
from tde.errors import KeystoreError
from tde.whole_writes import write_all

Result = TypeVar("Result")
_in_use = False


def use_passing_processes() -> None:
    """Do such work in children from now on; for a process that has one thread."""
    global _in_use
    _in_use = True


def pass_on(work: Callable[[], Result]) -> Result:
    """Do work on a passphrase, and return or raise what it returns or raises.

    Args:
        work: must neither return nor raise a secret. Those that it makes go to a shared
            :class:`~tde.keystore.crypto.secret.SecretBuffer`.

    Raises:
        KeystoreError: the child was killed.
    """
    if not _in_use:
        return work()
    parent = os.getpid()
    child, answer = ask_child(
        lambda writer, signals: _serve(writer, parent, signals, work), _read, interrupt
    )
    wait_for(child)
    if not answer:
        raise KeystoreError(
            "the process that works on the passphrase was killed",
            remedy="If the kernel did that for want of memory, its log says so: free some. Then "
            "repeat the command.",
        )
    # It comes from our own child, by a pipe that nobody else has.
    succeeded, result = pickle.loads(answer)
    if not succeeded:
        raise result
    made: Result = result
    return made


def _read(reader: int) -> bytes:
    with os.fdopen(reader, "rb", closefd=False) as answers:
        return answers.read()


def _serve(writer: int, parent: int, signals: Signals, work: Callable[[], Any]) -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, signals)
    # As if interrupted at the terminal, so that its echo is on again.
    if end_with(parent, signal.SIGINT):
        write_all(writer, _answer(work))


def _answer(work: Callable[[], Any]) -> bytes:
    try:
        return pickle.dumps((True, work()))
    except BaseException as error:
        # Frames would hold the passphrase; pickle leaves the traceback behind.
        return pickle.dumps((False, error))
