"""Conversions in a process that dies at a chosen moment."""

from __future__ import annotations

import os
import random
import traceback
from collections.abc import Callable

from tde.convert import worker
from tde.convert.blocks import SECTOR
from tde.convert.state import State

CRASHED = 77


def run_until(crash: Callable[[], None], convert: Callable[[], object]) -> bool:
    """Convert in a child process that ``crash`` prepares to die; tell whether it died."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            crash()
            convert()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    _, result = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(result)
    assert code in (0, CRASHED)
    return code == CRASHED


def die() -> None:
    """End the process without any cleaning up, as a power failure would."""
    os._exit(CRASHED)


def die_at_sync(number: int, *, of_finish: bool = False) -> Callable[[], None]:
    """Die instead of the n-th time that something is made durable.

    Args:
        of_finish: count from the moment when all blocks are converted.
    """

    def prepare() -> None:
        left = [10**9 if of_finish else number]

        def counting(sync: Callable[[int], None]) -> Callable[[int], None]:
            def run(descriptor: int) -> None:
                left[0] -= 1
                if left[0] < 0:
                    die()
                sync(descriptor)

            return run

        os.fsync = counting(os.fsync)
        os.fdatasync = counting(os.fdatasync)
        if of_finish:
            finishing = State.finishing

            def begin(state: State) -> State:
                left[0] = number
                return finishing(state)

            State.finishing = begin  # type: ignore[method-assign]

    return prepare


def die_in_write(number: int, seed: int) -> Callable[[], None]:
    """Die at the n-th overwriting of an extent, having written some of its sectors only."""

    def prepare() -> None:
        chooser = random.Random(seed)
        left = [number]

        def tearing(descriptor: int, view: memoryview, offset: int) -> None:
            left[0] -= 1
            if left[0] >= 0:
                for start in range(0, len(view), SECTOR):
                    os.pwrite(descriptor, view[start : start + SECTOR], offset + start)
                return
            share = chooser.choice([0.05, 0.5, 0.95])
            for start in range(0, len(view), SECTOR):
                if chooser.random() < share:
                    os.pwrite(descriptor, view[start : start + SECTOR], offset + start)
            die()

        worker.write_at = tearing

    return prepare
