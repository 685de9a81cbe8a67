"""The tables at the end of ``tde-bench pages``, and what they mean."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from tde_bench.measure.statistics import MINIMUM_VALUES
from tde_bench.pages.results import MEMCPY, OPENSSL, PagesResult, PagesSummary
from tde_bench.present.formats import UNKNOWN, format_interval, format_ratio, spread_name
from tde_bench.present.terminal import compact_table, print_warnings

# Batches of this size, 1 MiB, and more are what the targets are about.
LARGE_BATCH = 128


def print_report(result: PagesResult, console: Console) -> None:
    """Print a table per algorithm, the verdicts and the warnings."""
    if not result.runs:
        console.print("Nothing was measured, so there is nothing to report.")
        return
    summaries = result.summaries()
    for algorithm in dict.fromkeys(summary.algorithm for summary in summaries):
        own = [summary for summary in summaries if summary.algorithm == algorithm]
        console.print()
        console.print(pages_table(result, algorithm, own))
    console.print(Text(_explanation(result), "dim"))
    console.print()
    for line in verdicts(summaries):
        console.print(Text(line))
    print_warnings(result, console)


def pages_table(result: PagesResult, algorithm: str, summaries: list[PagesSummary]) -> Table:
    """Build the table of one algorithm, a line per backend and batch; it fits 80 columns."""
    title = f"{algorithm}, encryption on one core"
    table = compact_table(title)
    table.add_column("", no_wrap=True)
    scaling = [s for s in summaries if s.scaling is not None]
    threads = max((summary.threads for summary in scaling), default=1)
    headings = ["pages", "GB/s\nin place", "of\nopenssl", "GB/s\nout", "of\nopenssl"]
    if scaling:
        headings.append(f"{threads} threads\nin place")
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    order = [OPENSSL, MEMCPY, *(name for name in result.labels if name not in (OPENSSL, MEMCPY))]
    found = {
        (s.backend, s.pages, s.place, s.threads): s for s in summaries if s.direction == "encrypt"
    }
    rows = dict.fromkeys((backend, pages) for backend, pages, _, _ in found)
    for backend, pages in sorted(rows, key=lambda row: (order.index(row[0]), row[1])):
        cells = [result.labels[backend], str(pages)]
        for place in ("in place", "out"):
            summary = found.get((backend, pages, place, 1))
            cells.append(UNKNOWN if summary is None else f"{summary.bytes_per_second / 1e9:.2f}")
            cells.append(format_ratio(None if summary is None else summary.fraction))
        if scaling:
            shared = found.get((backend, pages, "in place", threads))
            estimate = None if shared is None else shared.scaling
            cells.append(UNKNOWN if estimate is None else f"× {estimate.median:.2f}")
        table.add_row(*cells)
    return table


def verdicts(summaries: list[PagesSummary]) -> list[str]:
    """Say how near the product comes to openssl with large batches, and how it scales."""
    lines = []
    for summary in summaries:
        if summary.backend != "tde" or summary.pages < LARGE_BATCH:
            continue
        case = f"{summary.algorithm} {summary.direction}, {summary.pages} pages, {summary.place}"
        if summary.threads == 1 and summary.fraction is not None:
            lines.append(
                f"{case}: {summary.fraction.median:.3f} of openssl speed on one core "
                f"({spread_name([summary.fraction])} {format_interval(summary.fraction)})."
            )
        if summary.threads > 1 and summary.scaling is not None:
            lines.append(
                f"{case}: {summary.scaling.median:.2f} times as fast with {summary.threads} "
                f"threads ({spread_name([summary.scaling])} {format_interval(summary.scaling)})."
            )
    rounds = max(summary.rounds for summary in summaries)
    if rounds < MINIMUM_VALUES:
        lines.append(f"From {rounds} rounds: {MINIMUM_VALUES} are needed for a conclusion.")
    return lines


def _explanation(result: PagesResult) -> str:
    machine = result.metadata.get("cpu", {})
    return (
        f"{machine.get('model', 'unknown CPU')}, {machine.get('count', '?')} CPUs; "
        f"{result.metadata.get('openssl', '?')}.\n"
        "Decryption is in --json and --csv. GB/s are of CPU time. Of openssl: median of the "
        "ratios of CPU speed to that of `openssl speed`, which works on one hot page, within each "
        "round. Threads: how many times as fast by the clock as one thread."
    )
