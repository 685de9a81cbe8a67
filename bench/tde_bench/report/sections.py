"""The section of each result on the page: tables, sentences and charts."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from rich.table import Table as RichTable

from tde_bench.batch.results import TOTAL, BatchResult
from tde_bench.batch.tables import phases_table, totals_table
from tde_bench.check.results import CheckResult
from tde_bench.check.tables import conclusion, explanation, findings_table, quantities_table
from tde_bench.compare.results import CompareResult
from tde_bench.compare.tables import compare_table, remarks
from tde_bench.io.results import IoResult
from tde_bench.io.tables import explanation as io_explanation, io_table, verdicts as io_verdicts
from tde_bench.measure.result import BenchmarkResult
from tde_bench.measure.statistics import Estimate
from tde_bench.oltp.results import OltpResult, Point, Summary
from tde_bench.oltp.tables import oltp_table, sweep_table, title
from tde_bench.oltp.verdicts import verdicts
from tde_bench.pages.results import MEMCPY, OPENSSL, PagesResult, PagesSummary
from tde_bench.pages.tables import pages_table
from tde_bench.pages.verdicts import verdicts as pages_verdicts
from tde_bench.present.palette import INK, colours
from tde_bench.report.charts import Bar, Chart, Line, bar_of, bars, grouped, lines


@dataclass(frozen=True)
class Table:
    """A table for HTML and Markdown alike; the first column holds names, the others figures."""

    title: str
    headings: list[str]
    rows: list[list[str]]


@dataclass
class Section:
    """One result file on the page."""

    title: str
    file: str
    status: str
    tables: list[Table] = field(default_factory=list)
    charts: list[Chart] = field(default_factory=list)
    sentences: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    machine: list[tuple[str, str]] = field(default_factory=list)
    raw: Table | None = None


def section_of(result: Any, file: str) -> Section:
    """Return the section of a result; one without runs says so."""
    heading, fill = _KINDS[type(result)]
    section = Section(heading, file, result.status)
    section.warnings = list(result.warnings)
    section.machine = machine_rows(result)
    if not result.runs:
        section.sentences.append("Nothing was measured.")
        if isinstance(result, CompareResult):
            section.sentences += remarks(result)
        return section
    fill(result, section)
    section.raw = raw_table([asdict(run) for run in result.runs])
    return section


def from_rich(table: RichTable) -> Table:
    """Take over a table that is also printed in the terminal."""
    columns = [[str(cell) for cell in column.cells] for column in table.columns]
    headings = [str(column.header).replace("\n", " ") for column in table.columns]
    return Table(
        str(table.title or ""), headings, [list(row) for row in zip(*columns, strict=True)]
    )


def raw_table(rows: Sequence[dict[str, Any]]) -> Table:
    """Return all runs with those columns that are known in any of them.

    Slices stay in the result file: a row of them would be as long as a page.
    """
    names = [
        name for name in rows[0] if name != "slices" and any(row[name] is not None for row in rows)
    ]
    return Table("Raw runs", names, [[_raw(row[name]) for name in names] for row in rows])


def _raw(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def machine_rows(result: BenchmarkResult) -> list[tuple[str, str]]:
    """Return what a reader needs to know about where and when."""
    metadata = result.metadata
    cpu = metadata.get("cpu") or {}
    filesystem = metadata.get("filesystem") or {}
    facts = result.facts.get(result.baseline, {})
    load = metadata.get("load_average") or []
    rows = [
        ("Date", str(metadata.get("date", ""))),
        ("CPU", f"{cpu.get('model', '?')}, {cpu.get('count', '?')} CPUs"),
        ("CPU features", ", ".join(cpu.get("flags", []))),
        ("Memory", f"{metadata.get('memory_bytes', 0) / 2**30:.1f} GiB"),
        ("Kernel", str(metadata.get("kernel", ""))),
        ("Filesystem", f"{filesystem['type']} on {filesystem['device']}" if filesystem else ""),
        ("PostgreSQL", str(facts.get("server_version", ""))),
        ("OpenSSL", _openssl(result)),
        ("openssl speed", str(metadata.get("openssl_program", ""))),
        ("OpenSSL of cryptography", str(metadata.get("cryptography_openssl", ""))),
        ("tde", f"{metadata.get('tde', '')}, commit {metadata.get('commit') or 'unknown'}"),
        ("Load before the run", " ".join(f"{value:.2f}" for value in load)),
        ("Parameters", ", ".join(f"{k} {v}" for k, v in result.parameters.items())),
    ]
    return [(name, value) for name, value in rows if value]


def _openssl(result: BenchmarkResult) -> str:
    """Return which libraries worked, and for whom where there were several."""
    if isinstance(result, PagesResult) and len(result.libraries) > 1:
        system, used = list(result.libraries.values())
        return f"{used}; the system's: {system}"
    users: dict[str, list[str]] = {}
    for name, label in result.labels.items():
        if version := result.facts.get(name, {}).get("openssl"):
            users.setdefault(str(version), []).append(label)
    if len(users) > 1:
        return "; ".join(f"{version} ({', '.join(who)})" for version, who in users.items())
    return next(iter(users), str(result.metadata.get("openssl", "")))


def _oltp(result: OltpResult, section: Section) -> None:
    section.title = title(result)
    section.sentences += verdicts(result)
    if result.is_sweep:
        section.tables.append(from_rich(sweep_table(result)))
        section.charts += _sweep_charts(result)
        return
    section.tables.append(from_rich(oltp_table(result)))
    section.charts += _summary_charts(result.summaries())


def _summary_charts(summaries: list[Summary]) -> list[Chart]:
    chosen = colours(summary.configuration for summary in summaries)
    tps = [Bar(s.label, s.tps, c) for s, c in zip(summaries, chosen, strict=True)]
    charts = [bars("Transactions per second (higher is better)", tps, number="{:,.0f}")]
    cpu = [
        Bar(s.label, s.cpu_ms_per_transaction, c)
        for s, c in zip(summaries, chosen, strict=True)
        if s.cpu_ms_per_transaction is not None
    ]
    if cpu:
        charts.append(bars("Server CPU ms per transaction (lower is better)", cpu, number="{:.3f}"))
    p95 = [Bar(s.label, s.latency_p95_ms, c) for s, c in zip(summaries, chosen, strict=True)]
    charts.append(bars("95th percentile of latency, ms (lower is better)", p95, number="{:.2f}"))
    return charts


_METRICS: tuple[tuple[str, Callable[[Summary], Estimate | None]], ...] = (
    ("Transactions per second, no encryption = 1", lambda summary: summary.tps_ratio),
    ("CPU per transaction, no encryption = 1", lambda summary: summary.cpu_ratio),
)


def _sweep_charts(result: OltpResult) -> list[Chart]:
    """Draw both ratios over clients, and over scales, as far as they were swept."""
    charts = []
    names = [name for name in result.labels if name != result.baseline]
    for heading, metric in _METRICS:
        for axis, other in (("clients", "scale"), ("scale", "clients")):
            if len({getattr(point, axis) for point in result.points}) < 2:
                continue
            data = []
            for name, colour in zip(names, colours(names), strict=True):
                for fixed in sorted({getattr(point, other) for point in result.points}):
                    points = [p for p in result.points if getattr(p, other) == fixed]
                    label = f"{result.labels[name]}, {other} {fixed}"
                    if line := _sweep_line(result, metric, points, axis, name, label, colour):
                        data.append(line)
            if data:
                charts.append(lines(heading, data, x_label=axis, unity=True))
    return charts


def _sweep_line(
    result: OltpResult,
    metric: Callable[[Summary], Estimate | None],
    points: list[Point],
    axis: str,
    name: str,
    label: str,
    colour: str,
) -> Line | None:
    found = [
        (float(getattr(point, axis)), estimate)
        for point in points
        for summary in result.summaries(point)
        if summary.configuration == name and (estimate := metric(summary)) is not None
    ]
    if not found:
        return None
    return Line(
        label,
        colour,
        [x for x, _ in found],
        [e.median for _, e in found],
        [e.median if e.low is None else e.low for _, e in found],
        [e.median if e.high is None else e.high for _, e in found],
    )


def _batch(result: BatchResult, section: Section) -> None:
    summaries = result.summaries()
    totals = [summary for summary in summaries if summary.phase == TOTAL]
    names = [name for name in result.labels if name != result.baseline]
    if totals:
        section.tables.append(from_rich(totals_table(result, totals)))
        chosen = colours(summary.configuration for summary in totals)
        data = [Bar(s.label, s.seconds, c) for s, c in zip(totals, chosen, strict=True)]
        heading = "Elapsed seconds of all phases (lower is better)"
        section.charts.append(bars(heading, data, number="{:.1f}"))
    for name in names:
        own = [summary for summary in summaries if summary.configuration == name]
        if own:
            section.tables.append(from_rich(phases_table(result, result.labels[name], own)))
    phases = [name for name in result.phases if any(s.phase == name for s in summaries)]
    series = []
    for name, colour in zip(names, colours(names), strict=True):
        found = {s.phase: s.seconds_ratio for s in summaries if s.configuration == name}
        line = [found.get(phase) for phase in phases]
        label = result.labels[name]
        series.append([None if e is None else bar_of(label, colour, e) for e in line])
    heading = "Elapsed time of each phase, no encryption = 1 (lower is better)"
    section.charts.append(grouped(heading, [result.phases[name] for name in phases], series))


def _pages(result: PagesResult, section: Section) -> None:
    summaries = result.summaries()
    section.sentences += pages_verdicts(result, summaries)
    for algorithm in dict.fromkeys(summary.algorithm for summary in summaries):
        own = [summary for summary in summaries if summary.algorithm == algorithm]
        section.tables.append(from_rich(pages_table(result, algorithm, own)))
        data = _lines_of_pages(result, own)
        heading = f"{algorithm}: GB/s of one core over pages per batch"
        section.charts.append(lines(heading, data, x_label="pages", log_y=True))


def _lines_of_pages(result: PagesResult, summaries: list[PagesSummary]) -> list[Line]:
    """Return the backends on one core, then the limits; a library that tde does not use: dotted."""
    names = [name for name in result.labels if name != OPENSSL]
    styles = dict.fromkeys(result.library_order, ":") | {result.used_library: "-", "": "-"}
    data = []
    for (name, colour), library in itertools.product(
        zip(names, colours(names), strict=True), result.library_order
    ):
        line = [
            s
            for s in summaries
            if (s.backend, s.library, s.direction, s.threads) == (name, library, "encrypt", 1)
            and (s.place == "in place" or name == MEMCPY)
        ]
        if line:
            x = [float(s.pages) for s in line]
            speeds = [s.bytes_per_second / 1e9 for s in line]
            label = result.label_of(name, library)
            data.append(Line(label, colour, x, speeds, style=styles[library]))
    ends = [x for line in data for x in line.x]
    for limit in summaries:
        if (limit.backend, limit.direction) == (OPENSSL, "encrypt") and ends:
            speed = limit.bytes_per_second / 1e9
            style = "--" if limit.library == result.used_library else ":"
            label = result.label_of(OPENSSL, limit.library)
            data.append(Line(label, INK, [min(ends), max(ends)], [speed, speed], style=style))
    return data


def _io(result: IoResult, section: Section) -> None:
    costs = result.classes()
    section.sentences += io_verdicts(result)
    section.sentences.append(io_explanation(result))
    names = list(dict.fromkeys(cost.configuration for cost in costs))
    for name, colour in zip(names, colours(names), strict=True):
        section.tables.append(from_rich(io_table(result, name, costs)))
        own = [c for c in costs if c.configuration == name and c.ratio is not None]
        data = [Bar(c.label, c.ratio, colour, c.low, c.high) for c in own if c.ratio is not None]
        if data:
            heading = f"{result.labels[name]}: time added to a page, the cipher alone = 1"
            section.charts.append(bars(heading, data, number="{:.2f}"))


def _check(result: CheckResult, section: Section) -> None:
    findings = result.findings()
    if result.comparison is None or not findings:
        section.tables.append(from_rich(quantities_table(result)))
        return
    section.sentences.append(conclusion(findings))
    section.sentences += [f"{finding.verdict.value}: {finding.reason}" for finding in findings]
    section.sentences.append(explanation(result.comparison))
    section.tables.append(from_rich(findings_table(findings)))


def _compare(result: CompareResult, section: Section) -> None:
    section.tables.append(from_rich(compare_table(result)))
    section.sentences += remarks(result)
    section.charts += _summary_charts(result.summaries())


_KINDS: dict[type[Any], tuple[str, Any]] = {
    OltpResult: ("OLTP", _oltp),
    BatchResult: ("Batch", _batch),
    PagesResult: ("The page cipher alone", _pages),
    IoResult: ("Recorded file I/O", _io),
    CheckResult: ("Check", _check),
    CompareResult: ("Peers", _compare),
}
