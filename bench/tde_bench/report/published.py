"""The published charts that the benchmarks reproduce, next to what was measured.

PowerGres Plus V9.1 (transparent data encryption in a patched PostgreSQL) on a Xeon E5-2690 with a
PCIe SSD. The charts were published without figures; these are what their text says: transactions
nearly the same, batches about 30 % longer with AES in software, nearly no overhead with AES-NI.
"""

from __future__ import annotations

from collections.abc import Iterable

from tde_bench.batch.results import TOTAL, BatchResult
from tde_bench.measure.statistics import Estimate
from tde_bench.oltp.results import OltpResult
from tde_bench.present.formats import spread_words
from tde_bench.present.palette import colours
from tde_bench.report.charts import Bar, Chart, bar_of, bars

WHAT_IT_IS = (
    "PowerGres Plus is a commercial PostgreSQL of SRA OSS in Japan, with a server that is changed "
    "to encrypt its own files. tde does that for the stock server, and repeats the benchmark that "
    "was published with it."
)
SOURCE = "PowerGres Plus V9.1, Xeon E5-2690, PCIe SSD; approximate, from its published description"

_OLTP = {"none": 1.0, "aes128": 1.0, "aes256": 1.0}
_BATCH = {
    "none": 1.0,
    "aes128-software": 1.3,
    "aes128": 1.0,
    "aes256-software": 1.3,
    "aes256": 1.0,
}
_LABELS = {
    "none": "no encryption",
    "aes128": "AES-128",
    "aes256": "AES-256",
    "aes128-software": "AES-128 software",
    "aes256-software": "AES-256 software",
}


def reference_pairs(oltp: OltpResult | None, batch: BatchResult | None) -> list[Chart]:
    """Return the reference charts, each followed by ours where a result has it."""
    charts = [_published("OLTP: transactions per second, published", _OLTP, {})]
    if oltp is not None:
        charts.append(_own_oltp(oltp))
    labels = {"aes128": "AES-128 AES-NI", "aes256": "AES-256 AES-NI"}
    charts.append(_published("Batch: elapsed time, published", _BATCH, labels))
    if batch is not None:
        charts.append(_own_batch(batch))
    return charts


def _published(title: str, values: dict[str, float], labels: dict[str, str]) -> Chart:
    data = [
        Bar(labels.get(name, _LABELS[name]), value, colour)
        for (name, value), colour in zip(values.items(), colours(values), strict=True)
    ]
    return bars(title, data, number="{:.1f}", approximate=True, note=SOURCE)


def _own_oltp(result: OltpResult) -> Chart:
    summaries = result.summaries(result.points[0])
    data = [
        bar_of(s.label, colour, s.tps_ratio)
        for s, colour in zip(summaries, colours(s.configuration for s in summaries), strict=True)
    ]
    note = _note(summary.tps_ratio for summary in summaries)
    return bars("OLTP: transactions per second, measured", data, number="{:.3f}", note=note)


def _own_batch(result: BatchResult) -> Chart:
    summaries = [summary for summary in result.summaries() if summary.phase == TOTAL]
    data = [
        bar_of(s.label, colour, s.seconds_ratio)
        for s, colour in zip(summaries, colours(s.configuration for s in summaries), strict=True)
    ]
    note = _note(summary.seconds_ratio for summary in summaries)
    return bars("Batch: elapsed time, measured", data, number="{:.3f}", note=note)


def _note(estimates: Iterable[Estimate | None]) -> str:
    return f"Median of the ratios within each round, with its {spread_words(estimates)}"
