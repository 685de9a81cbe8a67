"""Ends in the middle of conversions: at a step that a test names, or kill -9 at any moment."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from tde.convert import worker
from tde.convert.blocks import SECTOR
from tde.convert.state import State
from tde.postgres import Cluster
from tde.postgres.cluster.unfinished_conversion import MOVED_CONTROL
from tests.keystore.cheap_passphrase import PASSPHRASE

CRASHED = 77
COMMANDS = {
    "encrypt": ("pg", "encrypt"),
    "decrypt": ("pg", "decrypt"),
    "rekey": ("tablespace", "rekey", "--all"),
}


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

            def begin(state: State, control: str) -> State:
                left[0] = number
                return finishing(state, control)

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


class Killer:
    """Runs conversions and kills their whole process groups at random moments."""

    def __init__(self, cluster: Cluster, keystore: Path, seed: int) -> None:
        self.cluster = cluster
        self.keystore = keystore
        self.chooser = random.Random(seed)
        self.kills = 0
        self.longest = 1.0  # Seconds from the moving of pg_control to the end, so far.

    def run(self, verb: str, *options: str, kill: bool) -> bool:
        """Run once; tell whether it ended by itself."""
        process = subprocess.Popen(
            [
                Path(sys.executable).with_name("tde"),
                *COMMANDS[verb],
                *("-D", str(self.cluster.data_directory), "-k", str(self.keystore)),
                *("--passphrase-fd", "0", "-j", "2", *options),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        assert process.stdin is not None
        process.stdin.write(PASSPHRASE)
        process.stdin.close()
        process.stdin = None
        if kill:
            self._wait_for_a_moment(process)
            with suppress(ProcessLookupError):  # It was faster, and is done.
                os.killpg(process.pid, signal.SIGKILL)
        out, errors = process.communicate(timeout=120)
        if process.returncode == -signal.SIGKILL:
            self.kills += 1
            return False
        assert process.returncode == 0, (out + errors).decode()
        if kill:
            self.longest /= 2  # It is faster than that here.
        return True

    def _wait_for_a_moment(self, process: subprocess.Popen[bytes]) -> None:
        moved = self.cluster.data_directory / MOVED_CONTROL
        if self.chooser.random() < 0.2:
            time.sleep(self.chooser.uniform(0, 2))
            return
        while process.poll() is None and not moved.exists():
            time.sleep(0.001)
        # Small fractions too, because the steps before and after the blocks are short.
        wait = self.longest * self.chooser.choice([0.01, 0.1, 1]) * self.chooser.random()
        deadline = time.monotonic() + wait
        while process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.001)


def is_finished(cluster: Cluster, verb: str) -> bool:
    """Tell whether a conversion is complete, also one that was killed after its last step."""
    directory = cluster.data_directory
    done = (cluster.marker is not None) is (verb == "encrypt")
    return done and not any((directory / name).exists() for name in (MOVED_CONTROL, "tde_convert"))
