"""The table at the end of a run, and the sentences below it."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from rich.console import Console
from rich.table import Table
from rich.text import Text

from tde_bench.measure.statistics import Estimate
from tde_bench.oltp.results import OltpResult, Summary
from tde_bench.oltp.verdicts import verdicts
from tde_bench.present.formats import (
    SPREAD,
    format_cpu,
    format_interval,
    format_ratio,
    human_bytes,
    spread_name,
)
from tde_bench.present.terminal import caption, compact_table, print_warnings


def print_report(result: OltpResult, console: Console) -> None:
    """Print table, verdicts and warnings of a run, finished or not."""
    if not result.runs:
        console.print("No round was finished, so there is nothing to report.")
        return
    console.print()
    console.print(sweep_table(result) if result.is_sweep else oltp_table(result))
    console.print(Text(caption(result, estimates_of(result.summaries())), "dim"))
    console.print()
    for line in verdicts(result):
        console.print(Text(line))
    print_warnings(result, console)


_Line = tuple[str, Callable[[Summary], str]]

# A line per figure and a column per configuration: figures that are compared stand side by
# side, and three configurations fit a terminal of 80 columns.
_TPM_C: tuple[_Line, ...] = (("tpmC", lambda summary: f"{summary.tpm_c or 0:,.0f}"),)
_RATE: tuple[_Line, ...] = (
    ("  p95 ratio", lambda summary: format_ratio(summary.latency_p95_ratio)),
    (f"  {SPREAD}", lambda summary: format_interval(summary.latency_p95_ratio)),
)
_SPEED: tuple[_Line, ...] = (
    ("Rounds", lambda summary: str(summary.rounds)),
    ("TPS", lambda summary: f"{summary.tps:,.0f}"),
    ("  ratio", lambda summary: format_ratio(summary.tps_ratio)),
    (f"  {SPREAD}", lambda summary: format_interval(summary.tps_ratio)),
)
_LATENCY: tuple[_Line, ...] = (
    ("Latency ms, mean", lambda summary: f"{summary.latency_mean_ms:.2f}"),
    ("  p95", lambda summary: f"{summary.latency_p95_ms:.2f}"),
    ("  p99", lambda summary: f"{summary.latency_p99_ms:.2f}"),
)
_CPU: tuple[_Line, ...] = (
    ("CPU ms per transaction", lambda summary: format_cpu(summary.cpu_ms_per_transaction)),
    ("  ratio", lambda summary: format_ratio(summary.cpu_ratio)),
    (f"  {SPREAD}", lambda summary: format_interval(summary.cpu_ratio)),
    ("  of the cipher alone", lambda summary: format_cpu(summary.cipher_ms_per_transaction)),
    ("  added ÷ cipher", lambda summary: format_ratio(summary.limit)),
    (f"  {SPREAD}", lambda summary: format_interval(summary.limit)),
    ("Encrypted per round", lambda summary: human_bytes(summary.bytes_encrypted)),
    ("Decrypted per round", lambda summary: human_bytes(summary.bytes_decrypted)),
)


def oltp_table(result: OltpResult) -> Table:
    """Build the table of a result that has runs of one point."""
    summaries = result.summaries()
    table = Table(title=title(result), title_justify="left")
    table.add_column("")
    for summary in summaries:
        table.add_column(summary.label, justify="right")
    lines = [*_SPEED, *_LATENCY, *_CPU]
    if result.parameters.get("rate"):
        lines[len(_SPEED) + len(_LATENCY) : len(_SPEED) + len(_LATENCY)] = _RATE
    if any(summary.tpm_c is not None for summary in summaries):
        lines[1:1] = _TPM_C
    spread = spread_name(estimates_of(summaries))
    for heading, cell in lines:
        table.add_row(heading.replace(SPREAD, spread), *(cell(summary) for summary in summaries))
    return table


def estimates_of(summaries: Iterable[Summary]) -> list[Estimate | None]:
    """Return the estimates of which intervals are shown."""
    return [
        estimate
        for s in summaries
        for estimate in (s.tps_ratio, s.cpu_ratio, s.limit, s.latency_p95_ratio)
    ]


def title(result: OltpResult) -> str:
    """Return what was run, for example ``pgbench TPC-B, scale 20, 4 clients, 15 s per round``."""
    parameters = result.parameters
    points = result.points
    scales = sorted({point.scale for point in points})
    clients = sorted({point.clients for point in points})
    parts = [
        parameters.get("title", "pgbench TPC-B"),
        f"{parameters.get('scale_unit', 'scale')} {'/'.join(map(str, scales))}",
        f"{'/'.join(map(str, clients))} client{'s' if clients[-1] > 1 else ''}",
    ]
    if parameters.get("protocol", "simple") != "simple":
        parts.append(f"{parameters['protocol']} protocol")
    if parameters.get("rate"):
        parts.append(f"{parameters['rate']:g} transactions per second")
    return ", ".join([*parts, f"{parameters['duration']} s per round"])


def sweep_table(result: OltpResult) -> Table:
    """Build the table of a sweep: a line per point and encrypted configuration."""
    table = compact_table(title(result))
    for heading in (
        result.parameters.get("scale_unit", "scale"),
        "clients",
        "",
        "TPS",
        "ratio",
        "CPU ms",
        "ratio",
        "added ÷ cipher",
    ):
        table.add_column(heading, justify="right" if heading else "left", no_wrap=True)
    for point in result.points:
        for summary in result.summaries(point):
            table.add_row(
                str(point.scale),
                str(point.clients),
                summary.label,
                f"{summary.tps:,.0f}",
                format_ratio(summary.tps_ratio),
                format_cpu(summary.cpu_ms_per_transaction),
                format_ratio(summary.cpu_ratio),
                format_ratio(summary.limit),
            )
        table.add_section()
    return table
