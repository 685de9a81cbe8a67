"""Results of ``batch``: raw phases as they come, and what follows from them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from tde_bench.measure.cipher_speed import CipherSpeed, cipher_seconds
from tde_bench.measure.result import BenchmarkResult
from tde_bench.measure.statistics import (
    Estimate,
    median_or_none,
    paired,
    relative_noise,
    round_estimate,
)

SCHEMA = {"name": "tde-bench/batch", "version": 1}

# Stands in for a phase in summaries: all of them together.
TOTAL = "total"

# Where the cipher needs less than this, its share disappears in the noise of the phase and what
# was added cannot be divided by it. The CPU time of a short phase is hardly ever exact to 2 %.
MINIMUM_CIPHER_SHARE = 0.02


@dataclass(frozen=True)
class BatchRun:
    """One phase of one configuration in one round; None where a value cannot be known."""

    round: int
    position: int
    configuration: str
    phase: str
    started: str
    seconds: float
    cpu_seconds: float | None
    client_cpu_seconds: float
    bytes_encrypted: int | None
    bytes_decrypted: int | None
    relation_bytes_encrypted: int | None
    relation_bytes_decrypted: int | None
    wal_bytes_encrypted: int | None
    wal_bytes_decrypted: int | None
    ephemeral_bytes_encrypted: int | None
    ephemeral_bytes_decrypted: int | None
    steal_seconds: float


@dataclass(frozen=True)
class PhaseSummary:
    """What the rounds say about one phase of one configuration; medians unless named otherwise.

    Attributes:
        added_cpu_seconds: CPU seconds more than the baseline's in the same round.
        cipher_seconds: CPU seconds of the cipher alone for the same bytes, by ``openssl speed``.
        limit: added_cpu_seconds / cipher_seconds of each round; None when the cipher's share of
            the phase is too small to be told from noise.
    """

    configuration: str
    label: str
    phase: str
    rounds: int
    seconds: float
    cpu_seconds: float | None
    client_cpu_seconds: float
    bytes_encrypted: int | None
    bytes_decrypted: int | None
    seconds_noise: float | None
    cpu_noise: float | None
    seconds_ratio: Estimate | None
    cpu_ratio: Estimate | None
    added_cpu_seconds: float | None
    cipher_seconds: float | None
    limit: Estimate | None


@dataclass
class BatchResult(BenchmarkResult):
    """Everything about one run of ``tde-bench batch``; it grows while the run goes on.

    Attributes:
        phases: name to label, in their order.
        speeds: what ``openssl speed`` measured, once per round and encrypted configuration.
    """

    phases: dict[str, str] = field(default_factory=dict)
    runs: list[BatchRun] = field(default_factory=list)
    speeds: list[CipherSpeed] = field(default_factory=list)

    def frame(self) -> pd.DataFrame:
        """Return the raw runs as a table, one row per phase, in the order they were made."""
        rows = [asdict(run) for run in self.runs]
        table: pd.DataFrame = pd.DataFrame(rows, columns=pd.Index(_RUN_COLUMNS))
        return table

    def summaries(self) -> list[PhaseSummary]:
        """Summarize every phase and configuration that has a run, and the total of all phases."""
        frame = self.frame()
        found = []
        for phase, rows in self._by_phase(frame):
            for name, label in self.labels.items():
                if (rows["configuration"] == name).any():
                    found.append(self._summarize(rows, phase, name, label))
        return found

    def _by_phase(self, frame: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
        for phase in self.phases:
            yield phase, frame[frame["phase"] == phase]
        yield TOTAL, total_frame(frame, len(self.phases))

    def _summarize(self, rows: pd.DataFrame, phase: str, name: str, label: str) -> PhaseSummary:
        own = rows[rows["configuration"] == name]
        encrypted = median_or_none(own["bytes_encrypted"])
        decrypted = median_or_none(own["bytes_decrypted"])
        cpu = median_or_none(own["cpu_seconds"])
        cipher = cipher_seconds(self.speeds, name, encrypted, decrypted)
        pairs = paired(rows, "cpu_seconds", name, self.baseline, ("round",))
        added = pairs[name] - pairs[self.baseline]
        limit = None
        if cipher is not None and cpu is not None and cipher >= MINIMUM_CIPHER_SHARE * cpu:
            limit = round_estimate(added / cipher)

        def ratio(metric: str) -> Estimate | None:
            if name == self.baseline:
                return None
            pairs = paired(rows, metric, name, self.baseline, ("round",))
            return round_estimate(pairs[name] / pairs[self.baseline])

        def noise(metric: str) -> float | None:
            return relative_noise(own[metric].dropna().to_numpy(dtype=np.float64))

        return PhaseSummary(
            configuration=name,
            label=label,
            phase=phase,
            rounds=len(own),
            seconds=float(own["seconds"].median()),
            cpu_seconds=cpu,
            client_cpu_seconds=float(own["client_cpu_seconds"].median()),
            bytes_encrypted=None if encrypted is None else int(encrypted),
            bytes_decrypted=None if decrypted is None else int(decrypted),
            seconds_noise=noise("seconds"),
            cpu_noise=noise("cpu_seconds"),
            seconds_ratio=ratio("seconds"),
            cpu_ratio=ratio("cpu_seconds"),
            added_cpu_seconds=median_or_none(added),
            cipher_seconds=cipher,
            limit=limit,
        )

    def to_json(self) -> dict[str, Any]:
        """Return the document that ``--json`` writes."""
        return {
            **self.described(SCHEMA),
            "phases": [{"name": name, "label": label} for name, label in self.phases.items()],
            "openssl_speed": [asdict(speed) for speed in self.speeds],
            "runs": [asdict(run) for run in self.runs],
            "summary": [asdict(summary) for summary in self.summaries()],
        }


_RUN_COLUMNS = tuple(BatchRun.__dataclass_fields__)


def total_frame(frame: pd.DataFrame, phases: int) -> pd.DataFrame:
    """Return the sums of those rounds in which a configuration finished all phases."""
    groups = frame.groupby(["round", "configuration"])
    complete = groups["phase"].transform("count") == phases
    numbers = [name for name in _RUN_COLUMNS if name.endswith(_SUMMED)]
    whole = frame[complete]
    # Without min_count, the sum of unknown values would be zero.
    summed: pd.DataFrame = (
        whole[["round", "configuration", *numbers]]
        .astype(dict.fromkeys(numbers, float))
        .groupby(["round", "configuration"])
        .sum(min_count=phases)
        .reset_index()
    )
    return summed


_SUMMED = ("seconds", "_encrypted", "_decrypted")
