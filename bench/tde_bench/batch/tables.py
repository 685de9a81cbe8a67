"""The tables at the end of a batch."""

from __future__ import annotations

from collections.abc import Callable

from rich.console import Console
from rich.table import Table
from rich.text import Text

from tde_bench.batch.results import TOTAL, BatchResult, PhaseSummary
from tde_bench.measure.statistics import MINIMUM_VALUES, Estimate
from tde_bench.present.formats import (
    SPREAD,
    UNKNOWN,
    format_interval,
    format_ratio,
    human_bytes,
    spread_name,
)
from tde_bench.present.terminal import caption, compact_table, print_warnings


def print_report(result: BatchResult, console: Console) -> None:
    """Print the totals, the phases of each configuration, and the warnings."""
    summaries = result.summaries()
    if not summaries:
        console.print("No phase was finished, so there is nothing to report.")
        return
    console.print()
    totals = [summary for summary in summaries if summary.phase == TOTAL]
    if totals:
        console.print(totals_table(result, totals))
        console.print()
    for name, label in result.labels.items():
        own = [s for s in summaries if s.configuration == name and name != result.baseline]
        if own:
            console.print(phases_table(result, label, own))
            console.print()
    console.print(Text(_explanation(result, summaries), "dim"))
    rounds = max(summary.rounds for summary in summaries)
    if rounds < MINIMUM_VALUES:
        console.print(
            f"From {rounds} rounds: at least {MINIMUM_VALUES} are needed for a conclusion."
        )
    print_warnings(result, console)


def _short_interval(ratio: Estimate | None) -> str:
    """Format an interval with two digits: with three, five bars do not fit 80 columns."""
    return format_interval(ratio, digits=2)


# A line per figure and a column per configuration, as in the table of OLTP.
_LINES: tuple[tuple[str, Callable[[PhaseSummary], str]], ...] = (
    ("Elapsed s", lambda s: f"{s.seconds:.2f}"),
    ("  ratio", lambda s: format_ratio(s.seconds_ratio)),
    (f"  {SPREAD}", lambda s: _short_interval(s.seconds_ratio)),
    ("Server CPU s", lambda s: format_seconds(s.cpu_seconds)),
    ("  ratio", lambda s: format_ratio(s.cpu_ratio)),
    (f"  {SPREAD}", lambda s: _short_interval(s.cpu_ratio)),
    ("Cipher CPU s", lambda s: format_seconds(s.cipher_seconds)),
    ("  added ÷ cipher", lambda s: format_ratio(s.limit)),
    (f"  {SPREAD}", lambda s: _short_interval(s.limit)),
    ("Encrypted", lambda s: human_bytes(s.bytes_encrypted)),
    ("Decrypted", lambda s: human_bytes(s.bytes_decrypted)),
)


def estimates_of(summaries: list[PhaseSummary]) -> list[Estimate | None]:
    """Return the estimates of which intervals are shown."""
    return [estimate for s in summaries for estimate in (s.seconds_ratio, s.cpu_ratio, s.limit)]


def totals_table(result: BatchResult, totals: list[PhaseSummary]) -> Table:
    """Build the table of all phases together: the five bars as numbers."""
    table = compact_table(
        f"Batch of {len(result.phases)} phases, scale {result.parameters['scale']}, "
        f"{max(s.rounds for s in totals)} rounds"
    )
    table.add_column("All phases", no_wrap=True)
    for summary in totals:
        table.add_column(summary.label, justify="right")
    spread = spread_name(estimates_of(totals))
    for heading, cell in _LINES:
        table.add_row(heading.replace(SPREAD, spread), *(cell(summary) for summary in totals))
    return table


def phases_table(result: BatchResult, label: str, summaries: list[PhaseSummary]) -> Table:
    """Build the table of one configuration, a line per phase; it fits 80 columns."""
    table = compact_table(f"{label}, against {result.labels[result.baseline]}")
    table.add_column("Phase", no_wrap=True)
    for heading in ("s", "ratio", "CPU s", "ratio", "MB", "added ÷ cipher"):
        table.add_column(heading, justify="right", no_wrap=True)
    for summary in summaries:
        total = summary.phase == TOTAL
        if total:
            table.add_section()
        moved = (summary.bytes_encrypted or 0) + (summary.bytes_decrypted or 0)
        table.add_row(
            "All phases" if total else result.phases[summary.phase],
            f"{summary.seconds:.2f}",
            format_uncertain(summary.seconds_ratio),
            format_seconds(summary.cpu_seconds),
            format_uncertain(summary.cpu_ratio),
            f"{moved / 1e6:,.0f}",
            format_limit(summary.limit),
        )
    return table


def _explanation(result: BatchResult, summaries: list[PhaseSummary]) -> str:
    return (
        f"{caption(result, estimates_of(summaries))} 1 is the least that encryption can cost; "
        f"{UNKNOWN}: the cipher's share is too small to be told from noise. MB: encrypted and "
        "decrypted. In the tables of phases, ~ stands before a ratio whose interval holds 1: it "
        "can be chance."
    )


def format_seconds(seconds: float | None) -> str:
    """Format seconds."""
    return UNKNOWN if seconds is None else f"{seconds:.2f}"


def format_uncertain(ratio: Estimate | None) -> str:
    """Format a ratio, marked where the rounds do not tell it from 1."""
    chance = ratio is not None and (not ratio.is_conclusive or ratio.contains(1.0))
    return f"{'~' if chance else ''}{format_ratio(ratio)}"


def format_limit(limit: Estimate | None) -> str:
    """Format how many times the cipher's own CPU was added, with the interval."""
    if limit is None:
        return UNKNOWN
    if limit.low is None or limit.high is None:
        return f"{limit.median:.2f}"
    return f"{limit.median:.2f} ({limit.low:.1f}–{limit.high:.1f})"
