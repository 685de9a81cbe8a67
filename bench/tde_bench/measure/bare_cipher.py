"""The cipher of a libcrypto and nothing else: pages one after the other, by a program in C.

What a call from Python, a key or a file adds is not in it, but what memory takes is: ``openssl
speed`` works on one page that never leaves the processor's first cache.
"""

from __future__ import annotations

from pathlib import Path

from tde.algorithms import Algorithm
from tde.closing import Closing
from tde_bench.measure.replay_process import ReplayProcess


class BareCipher(Closing):
    """A process with a libcrypto.

    Args:
        library: its file, None for the one that the program is linked with, which is the system's.
    """

    def __init__(self, library: Path | None) -> None:
        self._process = ReplayProcess(library)

    def cpu_seconds(
        self, algorithm: Algorithm, *, decrypts: bool, pages: int, passes: int
    ) -> float:
        """Return what so many passes over so many pages, at most MOST_PAGES, take in place.

        Raises:
            BenchError: the process has ended, with what it said.
        """
        command = f"cipher {algorithm.value} {int(decrypts)} {pages * passes} {pages}"
        return self._process.ask(command) / 1e9

    def close(self) -> None:
        """End the process."""
        self._process.close()
