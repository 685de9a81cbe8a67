"""The process of the program in C that makes recorded calls again, and runs ciphers alone."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path

from tde.closing import Closing
from tde_bench.errors import BenchError

# c_ext/replay/run.c
MOST_PAGES = 2048

_PROGRAM = "tde_replay"


def replay_program() -> Path:
    """Return the program."""
    return Path(str(files("tde").joinpath(_PROGRAM)))


class ReplayProcess(Closing):
    """A process that answers each line with a number.

    Args:
        program: it, or a copy under another name.
        library: of the cipher; None for the one that the program is linked with, the system's.
        cwd, env, pass_fds: as subprocess has them.
    """

    def __init__(
        self,
        library: Path | None,
        *,
        program: Path | None = None,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        pass_fds: Sequence[int] = (),
    ) -> None:
        self._process = subprocess.Popen(
            [program or replay_program(), *([] if library is None else [library])],
            cwd=cwd,
            env=env,
            pass_fds=pass_fds,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def ask(self, command: str) -> int:
        """Send a command and return the answer.

        Raises:
            BenchError: the process has ended, with what it said.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            print(command, file=self._process.stdin, flush=True)
            answer = self._process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        if not answer:
            assert self._process.stderr is not None
            said = self._process.stderr.read().strip()
            raise BenchError(f"the replay ended with status {self._process.wait()}: {said}")
        return int(answer)

    def close(self) -> None:
        """End the process."""
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            assert pipe is not None
            pipe.close()
        self._process.wait()
