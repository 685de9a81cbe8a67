"""The recorded calls whose cost is watched: through the interposer, beside libc alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from tde.algorithms import Algorithm
from tde.closing import Closing
from tde.page.libcrypto import find_libcrypto
from tde_bench.check.quantities import CheckRun
from tde_bench.configurations import HARDWARE_AES
from tde_bench.io.player import Player
from tde_bench.io.trace import CLASSES, Stream, own_traces

# A stream of each class that has pages to encrypt: the trace that it is taken from.
_STREAMS = {
    "relation-read": "18-sort",
    "relation-write": "18-sort",
    "wal-write": "18-copy",
    "wal-read": "18-recovery",
    "temporary-write": "18-sort",
    "temporary-read": "18-sort",
}
# The fastest of so many counts: a machine is disturbed into being slower, never into being faster.
_REPEATS = 5


def replay_units() -> dict[str, tuple[str, str]]:
    """Return the label and the unit of each quantity."""
    return {_quantity(name): (f"{CLASSES[name]} ÷ libc", "page") for name in _STREAMS}


def _quantity(stream: str) -> str:
    return f"io-{stream}"


class Replays(Closing):
    """Two processes that make the calls, one with the interposer and one without.

    Args:
        folder: an empty directory.
    """

    def __init__(self, folder: Path) -> None:
        self._stack = ExitStack()
        try:
            make = self._stack.enter_context
            self._plain = make(Player(folder / "plain", None, None, HARDWARE_AES))
            self._encrypted = make(
                Player(folder / "aes256", Algorithm.AES256, find_libcrypto(), HARDWARE_AES)
            )
            self._streams = list(self._load())
        except BaseException:
            self._stack.close()
            raise

    def _load(self) -> Iterator[tuple[Stream, int, int]]:
        traces = {trace.name: trace for trace in own_traces()}
        for name, trace in _STREAMS.items():
            (stream,) = (each for each in traces[trace].streams if each.name == name)
            yield stream, self._plain.load(stream, name), self._encrypted.load(stream, name)

    def round(self, number: int) -> Iterator[CheckRun]:
        """Run libc alone before and after the interposer, so that drift cancels."""
        for stream, plain, encrypted in self._streams:
            first = _seconds_per_page(self._plain, plain, stream)
            measured = _seconds_per_page(self._encrypted, encrypted, stream)
            second = _seconds_per_page(self._plain, plain, stream)
            reference = (first + second) / 2
            yield CheckRun(number, _quantity(stream.name), measured, reference, first, second)

    def close(self) -> None:
        """End both."""
        self._stack.close()


def _seconds_per_page(player: Player, number: int, stream: Stream) -> float:
    return min(player.run(number) for _ in range(_REPEATS)) / 1e9 / stream.units
