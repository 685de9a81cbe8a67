"""The table of peers."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from tde_bench.compare.results import CompareResult
from tde_bench.measure.statistics import MINIMUM_VALUES
from tde_bench.oltp.tables import estimates_of
from tde_bench.present.formats import format_cpu, format_interval, format_ratio, spread_name
from tde_bench.present.terminal import caption, compact_table, print_warnings


def print_report(result: CompareResult, console: Console) -> None:
    """Print the table, the peers that could not run, notes and warnings."""
    if not result.runs:
        console.print("No round was finished, so there is nothing to report.")
    else:
        console.print()
        console.print(compare_table(result))
        words = caption(result, estimates_of(result.summaries()))
        console.print(Text(f"{words} ÷ cipher is short for it.", "dim"))
        console.print()
    for remark in remarks(result):
        console.print(Text(remark))
    rounds = max((summary.rounds for summary in result.summaries()), default=0)
    if 0 < rounds < MINIMUM_VALUES:
        console.print(f"From {rounds} rounds: {MINIMUM_VALUES} are needed for a conclusion.")
    print_warnings(result, console)


def remarks(result: CompareResult) -> list[str]:
    """Return what a reader must know of those that were measured, and why others were not."""
    notes = [
        f"{result.labels[name]}: {note}"
        for name, note in result.notes.items()
        if name in result.labels
    ]
    return notes + [f"{label}: not measured: {reason}." for label, reason in result.absent()]


def compare_table(result: CompareResult) -> Table:
    """Build the table: a line per peer, also for those that could not run; fits 80 columns."""
    parameters = result.parameters
    table = compact_table(f"TPC-B, scale {parameters['scale']}, {parameters['clients']} clients")
    # Of a table that is too wide, Rich shortens what may wrap: a long label, and no figure.
    table.add_column("")
    spread = spread_name(estimates_of(result.summaries())).replace("% ", "%\n")
    for heading in ("TPS", "ratio", spread, "p95\nms", "CPU\nms", "ratio", "÷\ncipher"):
        table.add_column(heading, justify="right", no_wrap=True)
    for summary in result.summaries():
        table.add_row(
            summary.label,
            f"{summary.tps:,.0f}",
            format_ratio(summary.tps_ratio),
            format_interval(summary.tps_ratio),
            f"{summary.latency_p95_ms:.2f}",
            format_cpu(summary.cpu_ms_per_transaction),
            format_ratio(summary.cpu_ratio),
            format_ratio(summary.limit),
        )
    for label, _ in result.absent():
        table.add_row(label, "not measured", *["–"] * 6)
    return table
