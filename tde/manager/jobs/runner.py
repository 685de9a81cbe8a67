"""The process of a job: ``python -m tde.manager.jobs.runner DIRECTORY LOCK``.

The passphrase comes on standard input, and each command gets it in a pipe of its own. The lock is
an open file that says that the job is there; with this process it goes.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from tde.console.progress import VARIABLE
from tde.keystore.crypto.secret import wipe
from tde.keystore.log.entry import VIA
from tde.machine.own_process import forbid_access
from tde.manager.jobs.store import (
    CANCEL,
    ENDED,
    OUTPUT,
    PASSPHRASE_OPTION,
    PROGRESS,
    SPECIFICATION,
    State,
)
from tde.manager.registry import write_durably

# Under its own name, which the key log notes.
_COMMAND = "import sys; sys.argv[0] = 'tde'; from tde.cli.app import main; main()"
_LOOK_SECONDS = 0.2
_SECONDS_TO_TAKE_BACK = 60.0
_LONGEST_PASSPHRASE = 4096
_INTERRUPTED = 130


class _Runner:
    def __init__(self, directory: Path, role: str) -> None:
        self._directory = directory
        self._role = role
        self._is_ended = False

    def end(self, number: int, frame: FrameType | None) -> None:
        self._is_ended = True

    def run(self, steps: Sequence[Sequence[str]], passphrase: bytearray) -> int:
        """Run one command after the other, until one fails; return its exit code."""
        with (self._directory / OUTPUT).open("ab", buffering=0) as output:
            for step in steps:
                # What was typed in a page can be typed in a terminal.
                output.write(f"$ tde {shlex.join(step)}\n".encode())
                code = self._run_step(step, passphrase, output.fileno())
                if code != 0:
                    return code
        return 0

    def _run_step(self, step: Sequence[str], passphrase: bytearray, output: int) -> int:
        environment = {
            **os.environ,
            VARIABLE: str(self._directory / PROGRESS),
            VIA: f"tde manager, {self._role}",
        }
        (self._directory / PROGRESS).unlink(missing_ok=True)
        takes_it = PASSPHRASE_OPTION in step
        process = subprocess.Popen(
            [sys.executable, "-c", _COMMAND, *step],
            stdin=subprocess.PIPE if takes_it else subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=environment,
            cwd="/",
        )
        if process.stdin is not None:
            try:
                with process.stdin as stream:
                    stream.write(passphrase)
            except BrokenPipeError:
                pass  # It has ended, and will say why.
        asked = 0.0
        while True:
            try:
                return process.wait(_LOOK_SECONDS)
            except subprocess.TimeoutExpired:
                pass
            if self.is_cancelled and not asked:
                asked = time.monotonic()
                process.send_signal(signal.SIGINT)
            elif asked and time.monotonic() > asked + _SECONDS_TO_TAKE_BACK:
                process.kill()

    @property
    def is_cancelled(self) -> bool:
        """Whether somebody wants it to end."""
        return self._is_ended or (self._directory / CANCEL).exists()


def main() -> None:
    """Run the job."""
    forbid_access()
    directory = Path(sys.argv[1])
    os.set_inheritable(int(sys.argv[2]), False)
    passphrase = bytearray(sys.stdin.buffer.read(_LONGEST_PASSPHRASE))
    specification = json.loads((directory / SPECIFICATION).read_text(encoding="utf-8"))
    runner = _Runner(directory, specification["role"])
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, runner.end)
    try:
        code = runner.run(specification["steps"], passphrase)
    finally:
        wipe(passphrase)
    cancelled = runner.is_cancelled and code != 0
    state = State.CANCELLED if cancelled else State.DONE if code == 0 else State.FAILED
    ended = {"state": state.value, "code": code, "at": time.time()}
    write_durably(directory / ENDED, json.dumps(ended))


if __name__ == "__main__":
    main()
