"""Results of ``oltp``: raw runs as they come, what follows from them, and both as JSON and CSV."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from tde_bench.outcome import Outcome, median_or_none
from tde_bench.statistics import Estimate, Values, median_estimate, relative_noise

SCHEMA = {"name": "tde-bench/oltp", "version": 1}


@dataclass(frozen=True)
class OltpRun:
    """One measured turn of one configuration; None where a value cannot be known.

    CPU and bytes belong to the whole turn, including the checkpoint at its end, because the
    pages that its transactions changed are written (and encrypted) by then at the latest.
    TPS and latency are those of pgbench, without that checkpoint.
    """

    round: int
    position: int
    configuration: str
    started: str
    seconds: int
    transactions: int
    failed: int
    tps: float
    latency_mean_ms: float
    latency_p50_ms: float
    latency_p95_ms: float
    latency_p99_ms: float
    latency_max_ms: float
    cpu_seconds: float | None
    cpu_ms_per_transaction: float | None
    bytes_encrypted: int | None
    bytes_decrypted: int | None
    relation_bytes_encrypted: int | None
    relation_bytes_decrypted: int | None
    wal_bytes_encrypted: int | None
    wal_bytes_decrypted: int | None
    steal_seconds: float


@dataclass(frozen=True)
class Summary:
    """What the rounds of one configuration say; medians unless named otherwise."""

    configuration: str
    label: str
    rounds: int
    tps: float
    latency_mean_ms: float
    latency_p95_ms: float
    latency_p99_ms: float
    cpu_ms_per_transaction: float | None
    bytes_encrypted: int | None
    bytes_decrypted: int | None
    tps_noise: float | None
    cpu_noise: float | None
    tps_ratio: Estimate | None
    cpu_ratio: Estimate | None


@dataclass
class OltpResult(Outcome):
    """Everything about one run of ``tde-bench oltp``; it grows while the run goes on."""

    runs: list[OltpRun] = field(default_factory=list)

    def frame(self) -> pd.DataFrame:
        """Return the raw runs as a table, one row per run, in the order they were made."""
        rows = [asdict(run) for run in self.runs]
        table: pd.DataFrame = pd.DataFrame(rows, columns=pd.Index(_RUN_COLUMNS))
        return table

    def summaries(self) -> list[Summary]:
        """Summarize every configuration that has at least one run."""
        frame = self.frame()
        return [
            _summarize(frame, name, label, self.baseline, int(self.parameters["seed"]))
            for name, label in self.labels.items()
            if (frame["configuration"] == name).any()
        ]

    def to_json(self) -> dict[str, Any]:
        """Return the document that ``--json`` writes."""
        return {
            **self.described(SCHEMA),
            "runs": [asdict(run) for run in self.runs],
            "summary": [asdict(summary) for summary in self.summaries()],
        }


_RUN_COLUMNS = tuple(OltpRun.__dataclass_fields__)


def paired_ratios(frame: pd.DataFrame, metric: str, configuration: str, baseline: str) -> Values:
    """Return metric(configuration) / metric(baseline) of every round that has both.

    Pairs within a round, which ran within a minute or so of each other, share the state of
    the machine; that state cancels in their ratio and does not in a ratio of two medians.
    """
    table = frame.pivot(index="round", columns="configuration", values=metric)
    if configuration not in table or baseline not in table:
        return np.empty(0)
    pairs = table[[configuration, baseline]].astype(float).dropna()
    ratios: Values = (pairs[configuration] / pairs[baseline]).to_numpy(dtype=np.float64)
    return ratios


def _summarize(frame: pd.DataFrame, name: str, label: str, baseline: str, seed: int) -> Summary:
    own = frame[frame["configuration"] == name]

    def ratio(metric: str) -> Estimate | None:
        if name == baseline:
            return None
        ratios = paired_ratios(frame, metric, name, baseline)
        return median_estimate(ratios, seed=seed) if ratios.size else None

    def noise(metric: str) -> float | None:
        return relative_noise(own[metric].dropna().to_numpy(dtype=np.float64))

    encrypted = median_or_none(own["bytes_encrypted"])
    decrypted = median_or_none(own["bytes_decrypted"])
    return Summary(
        configuration=name,
        label=label,
        rounds=len(own),
        tps=float(own["tps"].median()),
        latency_mean_ms=float(own["latency_mean_ms"].median()),
        latency_p95_ms=float(own["latency_p95_ms"].median()),
        latency_p99_ms=float(own["latency_p99_ms"].median()),
        cpu_ms_per_transaction=median_or_none(own["cpu_ms_per_transaction"]),
        bytes_encrypted=None if encrypted is None else int(encrypted),
        bytes_decrypted=None if decrypted is None else int(decrypted),
        tps_noise=noise("tps"),
        cpu_noise=noise("cpu_ms_per_transaction"),
        tps_ratio=ratio("tps"),
        cpu_ratio=ratio("cpu_ms_per_transaction"),
    )


def write_csv(result: OltpResult, path: Path) -> None:
    """Write the raw runs, one line each, for a spreadsheet."""
    result.frame().to_csv(path, index=False)
