"""Results of ``oltp``: raw runs as they come, what follows from them, and reading them again.

Version 3 of the schema added ``slices`` to every run and ``slice`` to the parameters; since then
ratios and limits are those of slices. A turn of an older document counts as one slice. Version 2
added ``clients`` and ``scale`` to every run and summary (a sweep has several of them), bytes of
ephemeral files, tpmC, the speed of the cipher and the limit. What version 1 had is unchanged in
meaning, and :func:`read_oltp` reads all three.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import numpy as np
import pandas as pd

from tde_bench.errors import BenchError
from tde_bench.measure.cipher_speed import CipherSpeed, cipher_seconds
from tde_bench.measure.result import BenchmarkResult, shared_fields
from tde_bench.measure.statistics import (
    Estimate,
    median_or_none,
    paired,
    relative_noise,
    round_estimate,
)

SCHEMA = {"name": "tde-bench/oltp", "version": 3}


@dataclass(frozen=True)
class Slice:
    """A part of a turn, run without a pause; the other configurations ran between the parts.

    CPU and bytes are those until the server's next slice, or until the checkpoint at the end of
    the turn. None where a value cannot be known.
    """

    transactions: int
    tps: float
    latency_p95_ms: float | None
    cpu_seconds: float | None
    bytes_encrypted: int | None
    bytes_decrypted: int | None


@dataclass(frozen=True)
class OltpRun:
    """One measured turn of one configuration; None where a value cannot be known.

    TPS and latency are those of all slices together. CPU and bytes belong to the whole turn,
    including the checkpoint at its end, because the pages that its transactions changed are
    written (and encrypted) by then at the latest. TPS and latency do not include that checkpoint.
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
    slices: tuple[Slice, ...] = ()

    def parts(self) -> tuple[Slice, ...]:
        """Return the slices; the turn as a whole where it was not cut."""
        whole = Slice(
            self.transactions,
            self.tps,
            self.latency_p95_ms,
            self.cpu_seconds,
            self.bytes_encrypted,
            self.bytes_decrypted,
        )
        return self.slices or (whole,)

    def per_transaction(self, metric: str) -> list[float | None]:
        """Return a metric per transaction of each slice, with its share of the checkpoint.

        The pages that a slice has changed are written by the checkpoint at the end of the turn at
        the latest, so what it used is spread evenly over the turn's transactions.
        """
        used = [getattr(part, metric) for part in self.parts()]
        whole = getattr(self, metric)
        if whole is None or None in used:
            return [None] * len(used)
        rest = (whole - sum(used)) / self.transactions
        return [
            value / part.transactions + rest if part.transactions else None
            for value, part in zip(used, self.parts(), strict=True)
        ]


@dataclass(frozen=True)
class Point:
    """One point of a sweep; a run without a sweep has a single one."""

    scale: int
    clients: int


@dataclass(frozen=True)
class Summary:
    """What the rounds of one configuration say; medians unless named otherwise.

    Attributes:
        tps_ratio: of slices next to each other, as all ratios.
        added_cpu_ms_per_transaction: CPU more than the baseline's in the slice next to it.
        cipher_ms_per_transaction: CPU of the cipher alone for the same bytes.
        limit: the former divided by the latter, of each slice.
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
class OltpResult(BenchmarkResult):
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

    def slices_frame(self) -> pd.DataFrame:
        """Return a row per slice of every run, with what its ratios are made of."""
        rows = [row for run in self.runs for row in self._slice_rows(run)]
        table: pd.DataFrame = pd.DataFrame(rows, columns=pd.Index(_SLICE_COLUMNS))
        return table

    def _slice_rows(self, run: OltpRun) -> list[tuple[Any, ...]]:
        def milliseconds(seconds: float | None) -> float | None:
            return None if seconds is None else 1000 * seconds

        columns = zip(
            run.parts(),
            run.per_transaction("cpu_seconds"),
            run.per_transaction("bytes_encrypted"),
            run.per_transaction("bytes_decrypted"),
            strict=True,
        )
        return [
            (
                *(run.scale, run.clients, run.round, number, run.configuration),
                # A slice without a transaction (a stalled disk) cannot be compared.
                part.tps or None,
                part.latency_p95_ms,
                milliseconds(cpu),
                milliseconds(cipher_seconds(self.speeds, run.configuration, encrypted, decrypted)),
            )
            for number, (part, cpu, encrypted, decrypted) in enumerate(columns)
        ]

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
        frame, slices = self.frame(), self.slices_frame()
        found = []
        for each in self.points if point is None else [point]:
            rows, parts = (
                table[(table["scale"] == each.scale) & (table["clients"] == each.clients)]
                for table in (frame, slices)
            )
            found += [
                self._summarize(rows, parts, each, name)
                for name in self.labels
                if (rows["configuration"] == name).any()
            ]
        return found

    def _summarize(
        self, rows: pd.DataFrame, parts: pd.DataFrame, point: Point, name: str
    ) -> Summary:
        own = rows[rows["configuration"] == name]

        def ratio(metric: str) -> Estimate | None:
            if name == self.baseline:
                return None
            pairs = paired(parts, metric, name, self.baseline)
            return round_estimate(pairs[name] / pairs[self.baseline])

        def noise(metric: str) -> float | None:
            return relative_noise(own[metric].dropna().to_numpy(dtype=np.float64))

        encrypted = median_or_none(own["bytes_encrypted"])
        decrypted = median_or_none(own["bytes_decrypted"])
        costs = self._costs(parts, name)
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
            limit=round_estimate((costs["added"] / costs["cipher"]).dropna()),
        )

    def _costs(self, parts: pd.DataFrame, name: str) -> pd.DataFrame:
        """Return per slice the milliseconds per transaction that were added, and the cipher's."""
        pairs = paired(parts, "cpu_ms_per_transaction", name, self.baseline)
        own = parts[parts["configuration"] == name].set_index(["round", "slice"])
        costs: pd.DataFrame = pd.DataFrame(
            {
                "added": pairs[name] - pairs[self.baseline],
                "cipher": own["cipher_ms_per_transaction"].astype(float),
            }
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


_RUN_COLUMNS = tuple(item.name for item in fields(OltpRun) if item.name != "slices")
_SLICE_COLUMNS = (
    *("scale", "clients", "round", "slice", "configuration"),
    *("tps", "latency_p95_ms", "cpu_ms_per_transaction", "cipher_ms_per_transaction"),
)


def read_oltp(document: Mapping[str, Any]) -> OltpResult:
    """Return the result that a JSON document of version 1, 2 or 3 holds.

    Raises:
        BenchError: when it is another document.
    """
    schema = document.get("schema", {})
    if schema.get("name") != SCHEMA["name"] or schema.get("version") not in (1, 2, 3):
        raise BenchError(f"not a result of tde-bench oltp of version 1, 2 or 3: {schema}")
    shared = shared_fields(document)
    parameters = shared["parameters"]
    # Version 1 had one point and one workload, and did not repeat them in every run.
    point = {"clients": parameters["clients"], "scale": parameters["scale"]}
    parameters.setdefault("workload", "tpcb")
    return OltpResult(
        **shared,
        runs=[_read_run(point, run) for run in document["runs"]],
        speeds=[CipherSpeed(**speed) for speed in document.get("openssl_speed", [])],
    )


def _read_run(point: Mapping[str, int], run: Mapping[str, Any]) -> OltpRun:
    known = {item.name for item in fields(OltpRun)}
    values = {**point, **{name: value for name, value in run.items() if name in known}}
    values["slices"] = tuple(Slice(**part) for part in run.get("slices", ()))
    return OltpRun(**values)
