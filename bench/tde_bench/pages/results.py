"""Results of ``pages``: raw samples as they come, and what follows from them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd

from tde.page.codec import PAGE_SIZE
from tde.page.libcrypto import SYSTEM
from tde_bench.measure.libraries import release_of
from tde_bench.measure.result import BenchmarkResult, shared_fields
from tde_bench.measure.statistics import Estimate, Values, median_estimate, median_or_none

SCHEMA = {"name": "tde-bench/pages", "version": 2}

# Limits, measured like backends: on one hot page, on as many as a batch has, and without cipher.
OPENSSL = "openssl"
BARE = "bare"
MEMCPY = "memcpy"
LIMITS = (OPENSSL, BARE, MEMCPY)
TDE = "tde"

_CASE = ("backend", "library", "algorithm", "direction", "pages", "place", "threads")


@dataclass(frozen=True)
class PagesCase:
    """What one sample measures; ``place`` is "in place" or "out".

    ``library`` names the libcrypto of the product and of ``openssl speed``; others have their own.
    """

    backend: str
    library: str
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
        fraction: CPU speed relative to ``openssl speed`` in the same round: with the same library,
            and of others with the one that tde uses.
        of_fastest: of the product, relative to the cipher alone of the fastest library on as many
            pages in place; where that was not measured, to ``openssl speed`` with that library.
        scaling: elapsed speed relative to the same case on one thread in the same round.
    """

    rounds: int
    bytes_per_second: float
    elapsed_bytes_per_second: float | None
    microseconds_per_page: float
    fraction: Estimate | None
    of_fastest: Estimate | None
    scaling: Estimate | None


@dataclass
class PagesResult(BenchmarkResult):
    """Everything about one run of ``tde-bench pages``; labels name the backends.

    Attributes:
        libraries: the version of each libcrypto by its name; the last is the one that tde uses.
    """

    runs: list[PagesRun] = field(default_factory=list)
    libraries: dict[str, str] = field(default_factory=lambda: {SYSTEM: ""})

    @property
    def used_library(self) -> str:
        """Name of the library that tde encrypts pages with."""
        return list(self.libraries)[-1]

    @property
    def library_order(self) -> list[str]:
        """The names of libraries as they are shown, the one that tde uses first; others' last."""
        return [*reversed(self.libraries), ""]

    def label_of(self, backend: str, library: str) -> str:
        """Return what people read, with the library's number where there are two."""
        label = self.labels[backend]
        if len(self.libraries) < 2 or library not in self.libraries:
            return label
        return f"{label} {release_of(self.libraries[library]).removeprefix('OpenSSL ')}"

    def fastest_library(self, algorithm: str, direction: str) -> str | None:
        """Return the library with the highest limit; None where the limit of any is not known."""
        speeds: dict[str, list[float]] = {}
        for run in self.runs:
            if (run.backend, run.algorithm, run.direction) == (OPENSSL, algorithm, direction):
                speeds.setdefault(run.library, []).append(run.bytes / run.cpu_seconds)
        if set(speeds) != set(self.libraries):
            return None
        return max(speeds, key=lambda name: float(np.median(speeds[name])))

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
        return [self._summarize(frame, _case(own), own) for _, own in cases]

    def to_json(self) -> dict[str, Any]:
        """Return the document that ``--json`` writes."""
        return {
            **self.described(SCHEMA),
            "libraries": [
                {"name": name, "version": version, "used": name == self.used_library}
                for name, version in self.libraries.items()
            ],
            "runs": [asdict(run) for run in self.runs],
            "summary": [asdict(summary) for summary in self.summaries()],
        }

    def _summarize(self, frame: pd.DataFrame, case: PagesCase, own: pd.DataFrame) -> PagesSummary:
        elapsed = case.threads > 1
        speed = float(own["speed" if elapsed else "cpu_speed"].median())
        fraction = of_fastest = scaling = None
        if case.backend not in (OPENSSL, MEMCPY):
            fraction = _of_hot_page(frame, case, own, case.library or self.used_library)
        if case.backend == TDE:
            of_fastest = self._of_fastest(frame, case, own)
        if elapsed:
            scaling = _paired(own, _same_case(frame, replace(case, threads=1)), "speed")
        return PagesSummary(
            **asdict(case),
            rounds=len(own),
            bytes_per_second=speed,
            elapsed_bytes_per_second=median_or_none(own["speed"]),
            microseconds_per_page=1e6 * PAGE_SIZE / speed,
            fraction=fraction,
            of_fastest=of_fastest,
            scaling=scaling,
        )

    def _of_fastest(
        self, frame: pd.DataFrame, case: PagesCase, own: pd.DataFrame
    ) -> Estimate | None:
        fastest = self.fastest_library(case.algorithm, case.direction)
        if fastest is None:
            return None
        bare = replace(case, backend=BARE, library=fastest)
        alone = _same_case(frame, bare)
        if alone.empty:
            return _of_hot_page(frame, case, own, fastest)
        return _paired(own, alone, "cpu_speed")

    def ahead_of(self, backend: str) -> list[tuple[PagesCase, Estimate]]:
        """Return how many times as fast the product is on one core, for each case of a backend."""
        frame = self.frame()
        frame["cpu_speed"] = frame["bytes"] / frame["cpu_seconds"]
        found = []
        peers = frame[frame["backend"] == backend]
        for _, other in peers.groupby(list(_CASE), sort=False):
            case = _case(other)
            own = _same_case(frame, replace(case, backend=TDE, library=self.used_library))
            if (estimate := _paired(own, other, "cpu_speed")) is not None:
                found.append((case, estimate))
        return found


_COLUMNS = tuple(PagesRun.__dataclass_fields__)


def _case(own: pd.DataFrame) -> PagesCase:
    """Return the case that all these samples belong to."""
    first = own.iloc[0]
    values: dict[str, Any] = {
        name: int(first[name]) if name in ("pages", "threads") else first[name] for name in _CASE
    }
    return PagesCase(**values)


def _same_case(frame: pd.DataFrame, case: PagesCase) -> pd.DataFrame:
    for name in _CASE:
        frame = frame[frame[name] == getattr(case, name)]
    return frame


def _of_hot_page(
    frame: pd.DataFrame, case: PagesCase, own: pd.DataFrame, library: str
) -> Estimate | None:
    """Return the CPU speed relative to ``openssl speed`` with that library."""
    limit = frame[
        (frame["backend"] == OPENSSL)
        & (frame["library"] == library)
        & (frame["algorithm"] == case.algorithm)
        & (frame["direction"] == case.direction)
    ]
    return _paired(own, limit, "cpu_speed")


def _paired(own: pd.DataFrame, other: pd.DataFrame, metric: str) -> Estimate | None:
    """Return the median of the ratios within each round, None when no round has both."""
    pairs = pd.concat(
        [own.set_index("round")[metric], other.set_index("round")[metric]], axis=1, join="inner"
    )
    pairs.columns = pd.Index(["own", "other"])
    ratios: Values = (pairs["own"] / pairs["other"]).to_numpy(dtype=np.float64)
    return median_estimate(ratios) if ratios.size else None


def read_pages(document: Mapping[str, Any]) -> PagesResult:
    """Return the result that a JSON document of any version holds."""
    result = PagesResult(**shared_fields(document))
    # Version 1 knew of one library only.
    known = document.get("libraries")
    if known is None:
        result.libraries = {SYSTEM: str(result.metadata.get("openssl", ""))}
    else:
        result.libraries = {library["name"]: library["version"] for library in known}
    for run in document["runs"]:
        values = {name: run[name] for name in _COLUMNS if name in run}
        values.setdefault("library", SYSTEM if run["backend"] in (OPENSSL, TDE) else "")
        result.runs.append(PagesRun(**values))
    return result
