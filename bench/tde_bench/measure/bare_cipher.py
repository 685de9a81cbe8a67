"""The cipher of a libcrypto and nothing else: pages one after the other, by a program in C.

What a call from Python, a key or a file adds is not in it, but what memory takes is: ``openssl
speed`` works on one page that never leaves the processor's first cache.
"""

from __future__ import annotations

import subprocess
from importlib.resources import files
from pathlib import Path

from tde.algorithms import Algorithm
from tde.closing import Closing
from tde_bench.errors import BenchError

# c_ext/replay/run.c
MOST_PAGES = 2048

_PROGRAM = "tde_replay"


def replay_program() -> Path:
    """Return the program that makes recorded calls again, and runs the cipher alone."""
    return Path(str(files("tde").joinpath(_PROGRAM)))


class BareCipher(Closing):
    """A process with a libcrypto.

    Args:
        library: its file, None for the one that the program is linked with, which is the system's.
    """

    def __init__(self, library: Path | None) -> None:
        self._process = subprocess.Popen(
            [replay_program(), *([] if library is None else [library])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def cpu_seconds(
        self, algorithm: Algorithm, *, decrypts: bool, pages: int, passes: int
    ) -> float:
        """Return what so many passes over so many pages, at most MOST_PAGES, take in place.

        Raises:
            BenchError: the process has ended, with what it said.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        command = f"cipher {algorithm.value} {int(decrypts)} {pages * passes} {pages}"
        try:
            print(command, file=self._process.stdin, flush=True)
            answer = self._process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        if not answer:
            assert self._process.stderr is not None
            said = self._process.stderr.read().strip()
            raise BenchError(f"the cipher alone could not be measured: {said}")
        return int(answer) / 1e9

    def close(self) -> None:
        """End the process."""
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            assert pipe is not None
            pipe.close()
        self._process.wait()
