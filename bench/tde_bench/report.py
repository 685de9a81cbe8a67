"""The table at the end of a run."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from tde_bench.results import OltpResult, Summary
from tde_bench.statistics import Estimate
from tde_bench.verdict import verdicts

_UNKNOWN = "–"


def print_report(result: OltpResult, console: Console) -> None:
    """Print table, verdicts and warnings of a run, finished or not."""
    if not result.runs:
        console.print("No round was finished, so there is nothing to report.")
        return
    console.print(oltp_table(result))
    for line in verdicts(result):
        console.print(Text(line))
    for warning in result.warnings:
        console.print(Text("Warning: ", "bold yellow") + Text(warning))


def oltp_table(result: OltpResult) -> Table:
    """Build the table with one line per configuration."""
    parameters = result.parameters
    table = Table(
        title=f"pgbench TPC-B, scale {parameters['scale']}, {parameters['clients']} clients, "
        f"{parameters['duration']} s per round",
        caption=caption(result),
        caption_justify="left",
    )
    table.add_column("Configuration")
    for heading in (
        "Rounds",
        "TPS",
        "TPS ratio",
        "Mean ms",
        "p95 ms",
        "p99 ms",
        "CPU ms/tx",
        "CPU ratio",
        "Encrypted",
        "Decrypted",
    ):
        table.add_column(heading, justify="right")
    for summary in result.summaries():
        table.add_row(*_cells(summary))
    return table


def caption(result: OltpResult) -> str:
    """Return the lines that say where and on what the figures were measured."""
    machine = result.metadata.get("cpu", {})
    filesystem = result.metadata.get("filesystem") or {}
    facts = result.facts.get(result.baseline, {})
    parts = [
        f"{machine.get('model', 'unknown CPU')}, {machine.get('count', '?')} CPUs",
        f"PostgreSQL {facts.get('server_version', '?')}",
    ]
    if filesystem:
        parts.append(f"{filesystem['type']} on {filesystem['device']}")
    if facts:
        data, buffers = facts["database_bytes"], facts["shared_buffers_bytes"]
        parts.append(f"data {human_bytes(data)}, {data / buffers:.1f} × shared_buffers")
    return (
        "; ".join(parts) + ".\nMedians of the rounds. Ratios are medians of the ratios within "
        "each round, with their bootstrap 95 % interval.\nCPU is that of the whole server; bytes "
        "are per round."
    )


def _cells(summary: Summary) -> list[str]:
    return [
        summary.label,
        str(summary.rounds),
        f"{summary.tps:,.0f}",
        format_ratio(summary.tps_ratio),
        f"{summary.latency_mean_ms:.2f}",
        f"{summary.latency_p95_ms:.2f}",
        f"{summary.latency_p99_ms:.2f}",
        _UNKNOWN
        if summary.cpu_ms_per_transaction is None
        else f"{summary.cpu_ms_per_transaction:.3f}",
        format_ratio(summary.cpu_ratio),
        human_bytes(summary.bytes_encrypted),
        human_bytes(summary.bytes_decrypted),
    ]


def format_ratio(ratio: Estimate | None) -> str:
    """Format a ratio with its interval, for example ``0.987 [0.971, 1.002]``."""
    if ratio is None:
        return _UNKNOWN
    if ratio.low is None or ratio.high is None:
        return f"{ratio.median:.3f}"
    return f"{ratio.median:.3f} [{ratio.low:.3f}, {ratio.high:.3f}]"


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
