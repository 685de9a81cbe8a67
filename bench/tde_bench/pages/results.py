"""Results of ``pages``: raw samples as they come, and what follows from them."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from tde.page.codec import PAGE_SIZE
from tde_bench.measure.result import BenchmarkResult
from tde_bench.measure.statistics import Estimate, Values, median_estimate, median_or_none

SCHEMA = {"name": "tde-bench/pages", "version": 1}

# The two limits, which are measured like backends.
OPENSSL = "openssl"
MEMCPY = "memcpy"

_CASE = ("backend", "algorithm", "direction", "pages", "place", "threads")


@dataclass(frozen=True)
class PagesCase:
    """What one sample measures; ``place`` is "in place" or "out"."""

    backend: str
    algorithm: str
    direction: str
    pages: int
    place: str
    threads: int


@dataclass(frozen=True)
class PagesRun(PagesCase):
    """One sample: so many bytes in so many seconds.

    ``cpu_seconds`` is what one core spent, of all threads together. ``openssl speed`` counts CPU
    time only, so the elapsed time of its samples is not known.
    """

    round: int
    position: int
    bytes: int
    seconds: float | None
    cpu_seconds: float


@dataclass(frozen=True)
class PagesSummary(PagesCase):
    """What the rounds say about one case; medians unless named otherwise.

    Attributes:
        bytes_per_second: of elapsed time where several threads work, of CPU time otherwise.
        elapsed_bytes_per_second: of elapsed time; None where only CPU time is known.
        fraction: CPU speed relative to ``openssl speed`` in the same round.
        scaling: elapsed speed relative to the same case on one thread in the same round.
    """

    rounds: int
    bytes_per_second: float
    elapsed_bytes_per_second: float | None
    microseconds_per_page: float
    fraction: Estimate | None
    scaling: Estimate | None


@dataclass
class PagesResult(BenchmarkResult):
    """Everything about one run of ``tde-bench pages``; labels name the backends."""

    runs: list[PagesRun] = field(default_factory=list)

    def frame(self) -> pd.DataFrame:
        """Return the raw samples as a table, in the order they were made."""
        rows = [asdict(run) for run in self.runs]
        table: pd.DataFrame = pd.DataFrame(rows, columns=pd.Index(_COLUMNS))
        return table

    def summaries(self) -> list[PagesSummary]:
        """Summarize every case that has at least one sample, in the order of their first."""
        frame = self.frame()
        frame["cpu_speed"] = frame["bytes"] / frame["cpu_seconds"]
        frame["speed"] = frame["bytes"] / frame["seconds"].astype(float)
        cases = frame.groupby(list(_CASE), sort=False)
        return [_summarize(frame, _case(own), own) for _, own in cases]

    def to_json(self) -> dict[str, Any]:
        """Return the document that ``--json`` writes."""
        return {
            **self.described(SCHEMA),
            "runs": [asdict(run) for run in self.runs],
            "summary": [asdict(summary) for summary in self.summaries()],
        }


_COLUMNS = tuple(PagesRun.__dataclass_fields__)


def _case(own: pd.DataFrame) -> PagesCase:
    """Return the case that all these samples belong to."""
    first = own.iloc[0]
    values: dict[str, Any] = {
        name: int(first[name]) if name in ("pages", "threads") else first[name] for name in _CASE
    }
    return PagesCase(**values)


def _summarize(frame: pd.DataFrame, case: PagesCase, own: pd.DataFrame) -> PagesSummary:
    elapsed = case.threads > 1
    by_the_clock = median_or_none(own["speed"])
    speed = float(own["speed" if elapsed else "cpu_speed"].median())
    fraction = scaling = None
    if case.backend not in (OPENSSL, MEMCPY):
        limit = frame[
            (frame["backend"] == OPENSSL)
            & (frame["algorithm"] == case.algorithm)
            & (frame["direction"] == case.direction)
        ]
        fraction = _paired(own, limit, "cpu_speed")
        if elapsed:
            alone = frame
            for name in _CASE:
                wanted = 1 if name == "threads" else getattr(case, name)
                alone = alone[alone[name] == wanted]
            scaling = _paired(own, alone, "speed")
    return PagesSummary(
        **asdict(case),
        rounds=len(own),
        bytes_per_second=speed,
        elapsed_bytes_per_second=by_the_clock,
        microseconds_per_page=1e6 * PAGE_SIZE / speed,
        fraction=fraction,
        scaling=scaling,
    )


def _paired(own: pd.DataFrame, other: pd.DataFrame, metric: str) -> Estimate | None:
    """Return the median of the ratios within each round, None when no round has both."""
    pairs = pd.concat(
        [own.set_index("round")[metric], other.set_index("round")[metric]], axis=1, join="inner"
    )
    pairs.columns = pd.Index(["own", "other"])
    ratios: Values = (pairs["own"] / pairs["other"]).to_numpy(dtype=np.float64)
    return median_estimate(ratios) if ratios.size else None
