"""Results of ``oltp``: raw runs as they come, what follows from them, and reading them again.

Version 2 of the schema added ``clients`` and ``scale`` to every run and summary (a sweep has
several of them), bytes of ephemeral files, tpmC, the speed of the cipher and the limit. What
version 1 had is unchanged in meaning, and :func:`read_oltp` reads both.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from tde_bench.errors import BenchError
from tde_bench.outcome import Outcome, median_or_none
from tde_bench.speed import CipherSpeed, cipher_seconds
from tde_bench.statistics import Estimate, Values, median_estimate, relative_noise

SCHEMA = {"name": "tde-bench/oltp", "version": 2}


@dataclass(frozen=True)
class OltpRun:
    """One measured turn of one configuration; None where a value cannot be known.

    CPU and bytes belong to the whole turn, including the checkpoint at its end, because the
    pages that its transactions changed are written (and encrypted) by then at the latest.
    TPS and latency are those of the load, without that checkpoint.
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
    clients: int = 0
    scale: int = 0
    ephemeral_bytes_encrypted: int | None = None
    ephemeral_bytes_decrypted: int | None = None
    tpm_c: float | None = None


@dataclass(frozen=True)
class Point:
    """One point of a sweep; a run without a sweep has a single one."""

    scale: int
    clients: int


@dataclass(frozen=True)
class Summary:
    """What the rounds of one configuration say; medians unless named otherwise.

    Attributes:
        added_cpu_ms_per_transaction: CPU more than the baseline's in the same round.
        cipher_ms_per_transaction: CPU of the cipher alone for the same bytes.
        limit: the former divided by the latter, of each round.
    """

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
    clients: int
    scale: int
    tpm_c: float | None
    latency_p95_ratio: Estimate | None
    added_cpu_ms_per_transaction: float | None
    cipher_ms_per_transaction: float | None
    limit: Estimate | None


@dataclass
class OltpResult(Outcome):
    """Everything about one run of ``tde-bench oltp``; it grows while the run goes on.

    Attributes:
        speeds: what ``openssl speed`` measured in the course of the run.
    """

    runs: list[OltpRun] = field(default_factory=list)
    speeds: list[CipherSpeed] = field(default_factory=list)

    def frame(self) -> pd.DataFrame:
        """Return the raw runs as a table, one row per run, in the order they were made."""
        rows = [asdict(run) for run in self.runs]
        table: pd.DataFrame = pd.DataFrame(rows, columns=pd.Index(_RUN_COLUMNS))
        return table

    @property
    def points(self) -> list[Point]:
        """The points that have runs, smaller scales and fewer clients first."""
        found = {(run.scale, run.clients) for run in self.runs}
        return [Point(*point) for point in sorted(found)]

    @property
    def is_sweep(self) -> bool:
        """Tell whether there is more than one point."""
        return len(self.points) > 1

    def summaries(self, point: Point | None = None) -> list[Summary]:
        """Summarize every configuration that has at least one run, at one point or at all."""
        frame = self.frame()
        found = []
        for each in self.points if point is None else [point]:
            rows = frame[(frame["scale"] == each.scale) & (frame["clients"] == each.clients)]
            found += [
                self._summarize(rows, each, name)
                for name in self.labels
                if (rows["configuration"] == name).any()
            ]
        return found

    def _summarize(self, rows: pd.DataFrame, point: Point, name: str) -> Summary:
        own = rows[rows["configuration"] == name]
        seed = int(self.parameters["seed"])

        def estimate(values: Values) -> Estimate | None:
            return median_estimate(values, seed=seed) if values.size else None

        def ratio(metric: str) -> Estimate | None:
            if name == self.baseline:
                return None
            return estimate(paired_ratios(rows, metric, name, self.baseline))

        def noise(metric: str) -> float | None:
            return relative_noise(own[metric].dropna().to_numpy(dtype=np.float64))

        encrypted = median_or_none(own["bytes_encrypted"])
        decrypted = median_or_none(own["bytes_decrypted"])
        costs = self._costs(rows, name)
        return Summary(
            configuration=name,
            label=self.labels[name],
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
            clients=point.clients,
            scale=point.scale,
            tpm_c=median_or_none(own["tpm_c"]),
            latency_p95_ratio=ratio("latency_p95_ms"),
            added_cpu_ms_per_transaction=median_or_none(costs["added"]),
            cipher_ms_per_transaction=median_or_none(costs["cipher"]),
            limit=estimate((costs["added"] / costs["cipher"]).dropna().to_numpy(dtype=np.float64)),
        )

    def _costs(self, rows: pd.DataFrame, name: str) -> pd.DataFrame:
        """Return per round the milliseconds per transaction that were added, and the cipher's."""
        empty: pd.DataFrame = pd.DataFrame({"added": [], "cipher": []}, dtype=float)
        if name == self.baseline:
            return empty
        own = rows[rows["configuration"] == name].set_index("round")
        plain = rows[rows["configuration"] == self.baseline].set_index("round")
        metric = "cpu_ms_per_transaction"
        added = own[metric].astype(float) - plain[metric].astype(float)
        cipher = {}
        for number, run in own.iterrows():
            values = run[["bytes_encrypted", "bytes_decrypted"]].tolist()
            encrypted, decrypted = (None if pd.isna(value) else float(value) for value in values)
            seconds = cipher_seconds(self.speeds, name, encrypted, decrypted)
            if seconds:
                cipher[number] = 1000 * seconds / float(run["transactions"])
        costs: pd.DataFrame = pd.DataFrame(
            {"added": added, "cipher": pd.Series(cipher, dtype=float)}
        )
        return costs

    def to_json(self) -> dict[str, Any]:
        """Return the document that ``--json`` writes."""
        return {
            **self.described(SCHEMA),
            "openssl_speed": [asdict(speed) for speed in self.speeds],
            "runs": [asdict(run) for run in self.runs],
            "summary": [asdict(summary) for summary in self.summaries()],
        }


_RUN_COLUMNS = tuple(OltpRun.__dataclass_fields__)


def read_oltp(document: Mapping[str, Any]) -> OltpResult:
    """Return the result that a JSON document of version 1 or 2 holds.

    Raises:
        BenchError: when it is another document.
    """
    schema = document.get("schema", {})
    if schema.get("name") != SCHEMA["name"] or schema.get("version") not in (1, 2):
        raise BenchError(f"not a result of tde-bench oltp of version 1 or 2: {schema}")
    parameters = dict(document["parameters"])
    # Version 1 had one point and one workload, and did not repeat them in every run.
    point = {"clients": parameters["clients"], "scale": parameters["scale"]}
    parameters.setdefault("workload", "tpcb")
    known = {item.name for item in fields(OltpRun)}
    described = ("name", "label")
    return OltpResult(
        parameters=parameters,
        labels={c["name"]: c["label"] for c in document["configurations"]},
        metadata=dict(document["metadata"]),
        facts={
            c["name"]: {key: value for key, value in c.items() if key not in described}
            for c in document["configurations"]
            if len(c) > len(described)
        },
        warnings=list(document["warnings"]),
        status=document["status"],
        runs=[
            OltpRun(**{**point, **{k: v for k, v in run.items() if k in known}})
            for run in document["runs"]
        ],
        speeds=[CipherSpeed(**speed) for speed in document.get("openssl_speed", [])],
    )


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


def write_csv(result: OltpResult, path: Path) -> None:
    """Write the raw runs, one line each, for a spreadsheet."""
    result.frame().to_csv(path, index=False)
