"""The process of a job of ``tde manager``: ``python -m tde.cli.job_runner DIRECTORY LOCK``.

Each command is a fork of this process, and not a program of its own: only so nobody of the same
user can look into it before it has closed its memory and its descriptors. The passphrase comes on
standard input once this process has done that, and says so; each command gets it in a pipe. The
lock is an open file that says that the job is there: it goes with the last process that works.
"""

from __future__ import annotations

import json
import os
import select
import shlex
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import NoReturn

from tde.cli.app import main as run_command
from tde.console import progress
from tde.keystore.crypto.secret import wipe
from tde.keystore.log import entry
from tde.machine.own_process import forbid_access
from tde.manager.jobs.store import (
    CANCEL,
    ENDED,
    OUTPUT,
    PASSPHRASE_OPTION,
    PROGRESS,
    READY,
    SPECIFICATION,
    State,
)
from tde.postgres.server.owned_files import write_owned_file

_LOOK_SECONDS = 0.2
_LONGEST_PASSPHRASE = 4096
_LONGEST_OUTPUT = 8 << 20  # Bytes; what a command prints after that is not kept.
_RESERVE = "reserve"
_RESERVED_BYTES = 4096


class _Runner:
    def __init__(self, directory: Path, role: str) -> None:
        self._directory = directory
        self._role = role
        self._is_ended = False
        self._kept = 0

    def end(self, number: int, frame: FrameType | None) -> None:
        """Remember that somebody wants it to end."""
        self._is_ended = True

    def run(self, steps: Sequence[Sequence[str]], passphrase: bytearray) -> int:
        """Run one command after the other, until one fails; return its exit code."""
        with (self._directory / OUTPUT).open("ab", buffering=0) as output:
            for step in steps:
                # What was typed in a page can be typed in a terminal.
                self._keep(output.fileno(), f"$ tde {shlex.join(step)}\n".encode())
                code = self._run_step(step, passphrase, output.fileno())
                if code != 0:
                    return code
        return 0

    def _run_step(self, step: Sequence[str], passphrase: bytearray, output: int) -> int:
        (self._directory / PROGRESS).unlink(missing_ok=True)
        given, said = os.pipe(), os.pipe()
        child = os.fork()
        if child == 0:
            self._become_command(step, given, said)
        os.close(given[0])
        os.close(said[1])
        with suppress(BrokenPipeError):  # It has ended, and will say why.
            if PASSPHRASE_OPTION in step:
                os.write(given[1], passphrase)
        os.close(given[1])
        asked = False
        try:
            while True:
                self._read(said[0], output)
                ended, status = os.waitpid(child, os.WNOHANG)
                if ended:
                    self._read(said[0], output)
                    return os.waitstatus_to_exitcode(status)
                if self.is_cancelled and not asked:
                    asked = True
                    os.kill(child, signal.SIGINT)
        finally:
            os.close(said[0])

    def _become_command(
        self, step: Sequence[str], given: tuple[int, int], said: tuple[int, int]
    ) -> NoReturn:
        """Be the command, in a fork of this process, with what it reads and what it says."""
        code = 1
        try:
            os.dup2(given[0], 0)
            for number in (1, 2):
                os.dup2(said[1], number)
            for descriptor in (*given, *said):
                os.close(descriptor)
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                signal.signal(number, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            # Not in the environment, which a server that is started here would keep.
            progress.tell_file(self._directory / PROGRESS)
            entry.note_origin(f"tde manager, {self._role}")
            sys.argv = ["tde", *step]
            run_command()
            code = 0
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else int(error.code is not None)
        except BaseException as error:
            os.write(2, f"tde: error: {type(error).__name__}: {error}\n".encode(errors="replace"))
        finally:
            for stream in (sys.stdout, sys.stderr):
                with suppress(OSError, ValueError):
                    stream.flush()
            os._exit(code if 0 <= code < 256 else 1)

    def _read(self, descriptor: int, output: int) -> None:
        """Keep what a command has said, waiting a moment for more."""
        deadline = time.monotonic() + _LOOK_SECONDS
        while True:
            left = deadline - time.monotonic()
            if not select.select([descriptor], [], [], max(left, 0))[0]:
                return
            text = os.read(descriptor, 1 << 16)
            if not text:
                time.sleep(max(left, 0))  # It has closed its end, and may work on.
                return
            self._keep(output, text)

    def _keep(self, output: int, text: bytes) -> None:
        if self._kept < _LONGEST_OUTPUT:
            self._kept += len(text)
            with suppress(OSError):  # A disk that is full stops no work.
                os.write(output, text)

    @property
    def is_cancelled(self) -> bool:
        """Whether somebody wants it to end."""
        return self._is_ended or (self._directory / CANCEL).exists()


def main() -> None:
    """Run the job."""
    forbid_access()
    directory = Path(sys.argv[1])
    os.set_inheritable(int(sys.argv[2]), False)
    os.write(1, READY)
    passphrase = bytearray(sys.stdin.buffer.read(_LONGEST_PASSPHRASE))
    null = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(null, number)
    specification = json.loads((directory / SPECIFICATION).read_text(encoding="utf-8"))
    # Room to say in the end how it went, also when the disk is full by then.
    (directory / _RESERVE).write_bytes(bytes(_RESERVED_BYTES))
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
    (directory / _RESERVE).unlink(missing_ok=True)
    write_owned_file(directory / ENDED, json.dumps(ended), None)


if __name__ == "__main__":
    main()
