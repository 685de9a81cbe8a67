"""The table at the end of a run, and the sentences below it."""

from __future__ import annotations

from collections.abc import Callable

from rich.console import Console
from rich.table import Table
from rich.text import Text

from tde_bench.outcome import Outcome
from tde_bench.results import OltpResult, Summary
from tde_bench.statistics import Estimate
from tde_bench.verdict import verdicts

_UNKNOWN = "–"


def print_report(result: OltpResult, console: Console) -> None:
    """Print table, verdicts and warnings of a run, finished or not."""
    if not result.runs:
        console.print("No round was finished, so there is nothing to report.")
        return
    console.print()
    console.print(oltp_table(result))
    console.print(Text(caption(result), "dim"))
    console.print()
    for line in verdicts(result):
        console.print(Text(line))
    for warning in result.warnings:
        console.print(Text("Warning: ", "bold yellow") + Text(warning))


# A line per figure and a column per configuration: figures that are compared stand side by
# side, and three configurations fit a terminal of 80 columns.
_LINES: tuple[tuple[str, Callable[[Summary], str]], ...] = (
    ("Rounds", lambda summary: str(summary.rounds)),
    ("TPS", lambda summary: f"{summary.tps:,.0f}"),
    ("  ratio", lambda summary: format_ratio(summary.tps_ratio)),
    ("  95 % interval", lambda summary: format_interval(summary.tps_ratio)),
    ("Latency ms, mean", lambda summary: f"{summary.latency_mean_ms:.2f}"),
    ("  p95", lambda summary: f"{summary.latency_p95_ms:.2f}"),
    ("  p99", lambda summary: f"{summary.latency_p99_ms:.2f}"),
    ("CPU ms per transaction", lambda summary: format_cpu(summary.cpu_ms_per_transaction)),
    ("  ratio", lambda summary: format_ratio(summary.cpu_ratio)),
    ("  95 % interval", lambda summary: format_interval(summary.cpu_ratio)),
    ("Encrypted per round", lambda summary: human_bytes(summary.bytes_encrypted)),
    ("Decrypted per round", lambda summary: human_bytes(summary.bytes_decrypted)),
)


def oltp_table(result: OltpResult) -> Table:
    """Build the table of a result that has runs."""
    parameters = result.parameters
    table = Table(
        title=f"pgbench TPC-B, scale {parameters['scale']}, {parameters['clients']} clients, "
        f"{parameters['duration']} s per round",
        title_justify="left",
    )
    summaries = result.summaries()
    table.add_column("")
    for summary in summaries:
        table.add_column(summary.label, justify="right")
    for heading, cell in _LINES:
        table.add_row(heading, *(cell(summary) for summary in summaries))
    return table


def caption(result: Outcome) -> str:
    """Return the lines that say where and on what the figures were measured."""
    machine = result.metadata.get("cpu", {})
    filesystem = result.metadata.get("filesystem") or {}
    facts = result.facts.get(result.baseline, {})
    parts = [f"{machine.get('model', 'unknown CPU')}, {machine.get('count', '?')} CPUs"]
    if filesystem:
        parts.append(f"{filesystem['type']} on {filesystem['device']}")
    if facts:
        data, buffers = facts["database_bytes"], facts["shared_buffers_bytes"]
        parts.insert(1, f"PostgreSQL {facts['server_version']}")
        parts.append(f"data {human_bytes(data)}, {data / buffers:.1f} × shared_buffers")
    return (
        "; ".join(parts) + ".\nFigures are medians of the rounds; ratios are medians of the "
        "ratios within each round, with their bootstrap interval. CPU is that of all processes "
        "of the server."
    )


def format_ratio(ratio: Estimate | None) -> str:
    """Format the median of a ratio, for example ``0.987``."""
    return _UNKNOWN if ratio is None else f"{ratio.median:.3f}"


def format_interval(ratio: Estimate | None) -> str:
    """Format the interval of a ratio, for example ``0.971–1.002``."""
    if ratio is None or ratio.low is None or ratio.high is None:
        return _UNKNOWN
    return f"{ratio.low:.3f}–{ratio.high:.3f}"


def format_cpu(milliseconds: float | None) -> str:
    """Format CPU milliseconds per transaction."""
    return _UNKNOWN if milliseconds is None else f"{milliseconds:.3f}"


def human_bytes(count: int | None) -> str:
    """Format a number of bytes with a decimal unit."""
    if count is None:
        return _UNKNOWN
    value = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"
