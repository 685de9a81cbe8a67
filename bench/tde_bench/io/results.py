"""Results of ``io``: raw times as they come, and what follows from their minima."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import pandas as pd

from tde_bench.io.trace import CLASSES, EXTENSION
from tde_bench.measure.result import BenchmarkResult

SCHEMA = {"name": "tde-bench/io", "version": 1}

# What a run measures: all calls of a stream, the same with the cipher alone in front of each call,
# or the cipher and no call at all.
REPLAY = "replay"
BARE = "bare"
CIPHER = "cipher"

# With fewer pages than this the cipher is too small a part of a stream to tell its ratio.
FEW_PAGES = 256
# A page in the pocket of the processor, again and again: the fastest that this cipher ever is.
CIPHER_PAGES = 1024


@dataclass(frozen=True)
class IoRun:
    """One measurement.

    Attributes:
        trace: what :attr:`~tde_bench.io.trace.Trace.name` calls it.
        stream: the class of files; of the cipher alone "encrypt" or "decrypt".
        calls, pages: how many of either there were.
        nanoseconds: of all of them.
    """

    round: int
    trace: str
    stream: str
    configuration: str
    kind: str
    calls: int
    pages: int
    nanoseconds: int


@dataclass(frozen=True)
class Cost:
    """What encryption adds to one class of files, or to one stream of it.

    Attributes:
        traces: whose streams are in it.
        plain_ns: of a call through the C library alone.
        added_ns_per_call, added_ns_per_page: with the interposer; None where nothing is encrypted.
        bare_ns_per_page: the same with the cipher in front of each call, and nothing else.
        cipher_ns: of one page that never leaves the processor.
        ratio: added per page, relative to that.
        low, high: the same from the odd and the even rounds alone: how far noise moves it.
    """

    stream: str
    configuration: str
    traces: tuple[str, ...]
    calls: int
    pages: int
    plain_ns: float
    added_ns_per_call: float
    added_ns_per_page: float | None = None
    bare_ns_per_page: float | None = None
    cipher_ns: float | None = None
    ratio: float | None = None
    low: float | None = None
    high: float | None = None

    @property
    def label(self) -> str:
        """What people call the class."""
        return CLASSES[self.stream]


@dataclass
class IoResult(BenchmarkResult):
    """Everything about one run of ``tde-bench io``; labels name the configurations."""

    runs: list[IoRun] = field(default_factory=list)

    def frame(self) -> pd.DataFrame:
        """Return the raw runs as a table, in the order they were made."""
        rows = [asdict(run) for run in self.runs]
        table: pd.DataFrame = pd.DataFrame(rows, columns=pd.Index(_COLUMNS))
        return table

    def classes(self) -> list[Cost]:
        """Return the cost of each class of files, of all traces together."""
        frame = self.frame()
        return [
            cost
            for configuration in self._encrypted()
            for name in CLASSES
            if (cost := self._cost(frame, configuration, name)) is not None
        ]

    def streams(self) -> list[Cost]:
        """Return the cost of each class in each trace."""
        whole = self.frame()
        frames = [frame for _, frame in whole.groupby("trace", sort=False)]
        return [
            cost
            for configuration in self._encrypted()
            for name in CLASSES
            for frame in frames
            if (cost := self._cost(frame, configuration, name)) is not None
        ]

    def to_json(self) -> dict[str, Any]:
        """Return the document that ``--json`` writes."""
        return {
            **self.described(SCHEMA),
            "runs": [asdict(run) for run in self.runs],
            "classes": [asdict(cost) for cost in self.classes()],
            "streams": [asdict(cost) for cost in self.streams()],
        }

    def _encrypted(self) -> list[str]:
        return [name for name in self.labels if name != self.baseline]

    def _cost(self, frame: pd.DataFrame, configuration: str, stream: str) -> Cost | None:
        """Put the streams of a class together; None where there is nothing to tell.

        Args:
            frame: the runs of the traces that count.
        """
        frame = frame[(frame["stream"] == stream) & (frame["kind"] != CIPHER)]
        if stream not in ("open", EXTENSION):
            frame = frame[frame["pages"] >= FEW_PAGES]
        whole = _sums(frame, configuration, self.baseline)
        if whole is None:
            return None
        cost = Cost(
            *(stream, configuration, whole.traces, whole.calls, whole.pages),
            plain_ns=whole.plain / whole.calls,
            added_ns_per_call=(whole.own - whole.plain) / whole.calls,
        )
        cipher = self._cipher_ns(configuration, "decrypt" if "read" in stream else "encrypt")
        if whole.pages == 0 or cipher is None:
            return cost
        halves = [
            half.added_per_page / cipher
            for parity in (0, 1)
            if (half := _sums(frame[frame["round"] % 2 == parity], configuration, self.baseline))
        ]
        return Cost(
            **{
                **asdict(cost),
                "added_ns_per_page": whole.added_per_page,
                "bare_ns_per_page": (whole.bare - whole.plain) / whole.pages,
                "cipher_ns": cipher,
                "ratio": whole.added_per_page / cipher,
                "low": min(halves, default=None),
                "high": max(halves, default=None),
            }
        )

    def _cipher_ns(self, configuration: str, direction: str) -> float | None:
        own = [
            run.nanoseconds / run.pages
            for run in self.runs
            if run.kind == CIPHER and run.configuration == configuration and run.stream == direction
        ]
        return min(own, default=None)


_COLUMNS = tuple(IoRun.__dataclass_fields__)


@dataclass(frozen=True)
class _Sums:
    """Minima of the streams of a class, added up."""

    traces: tuple[str, ...]
    calls: int
    pages: int
    plain: float
    own: float
    bare: float

    @property
    def added_per_page(self) -> float:
        return (self.own - self.plain) / self.pages


def _sums(frame: pd.DataFrame, configuration: str, baseline: str) -> _Sums | None:
    """Take the minimum of each stream and add them up; None where one was not measured."""
    plain = _minima(frame, baseline, REPLAY)
    own = _minima(frame, configuration, REPLAY)
    bare = _minima(frame, configuration, BARE)
    traces = tuple(name for name in plain.index if name in own.index)
    if not traces:
        return None
    counts = frame.groupby("trace")[["calls", "pages"]].first()
    names = list(traces)
    return _Sums(
        traces,
        int(counts.loc[names, "calls"].sum()),
        int(counts.loc[names, "pages"].sum()),
        float(plain[names].sum()),
        float(own[names].sum()),
        float(bare.reindex(names).sum()),
    )


def _minima(frame: pd.DataFrame, configuration: str, kind: str) -> pd.Series[int]:
    own = frame[(frame["configuration"] == configuration) & (frame["kind"] == kind)]
    minima: pd.Series[int] = own.groupby("trace", sort=False)["nanoseconds"].min()
    return minima


def worst(costs: Sequence[Cost], configuration: str) -> Cost | None:
    """Return the class whose ratio is the largest."""
    own = [c for c in costs if c.configuration == configuration and c.ratio is not None]
    return max(own, key=lambda cost: cost.ratio or 0.0, default=None)
