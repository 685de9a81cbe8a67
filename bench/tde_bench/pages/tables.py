"""The tables at the end of ``tde-bench pages``, and what they mean."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from tde_bench.pages.results import LIMITS, PagesResult, PagesSummary
from tde_bench.pages.verdicts import verdicts
from tde_bench.present.formats import UNKNOWN, format_ratio
from tde_bench.present.terminal import compact_table, print_warnings


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
    for line in verdicts(result, summaries):
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
    order = [*LIMITS, *(name for name in result.labels if name not in LIMITS)]
    found = {
        (s.backend, s.library, s.pages, s.place, s.threads): s
        for s in summaries
        if s.direction == "encrypt"
    }
    rows = dict.fromkeys(key[:3] for key in found)
    for backend, library, pages in sorted(
        rows, key=lambda row: (order.index(row[0]), result.library_order.index(row[1]), row[2])
    ):
        cells = [result.label_of(backend, library), str(pages)]
        for place in ("in place", "out"):
            summary = found.get((backend, library, pages, place, 1))
            cells.append(UNKNOWN if summary is None else f"{summary.bytes_per_second / 1e9:.2f}")
            cells.append(format_ratio(None if summary is None else summary.fraction))
        if scaling:
            shared = found.get((backend, library, pages, "in place", threads))
            estimate = None if shared is None else shared.scaling
            cells.append(UNKNOWN if estimate is None else f"× {estimate.median:.2f}")
        table.add_row(*cells)
    return table


def _explanation(result: PagesResult) -> str:
    machine = result.metadata.get("cpu", {})
    return (
        f"{machine.get('model', 'unknown CPU')}, {machine.get('count', '?')} CPUs; "
        f"{_libraries(result)}.\n"
        "Decryption is in --json and --csv. GB/s are of CPU time. Of openssl: median of the "
        "ratios of CPU speed to that of `openssl speed` with the same library, which works on one "
        "hot page, within each round; of others to that with the library of tde. Cipher alone: the "
        "library's own functions on as many pages, called from C. Threads: how many "
        "times as fast by the clock as one thread."
    )


def _libraries(result: PagesResult) -> str:
    versions = list(result.libraries.values())
    if len(versions) == 1:
        return versions[0] or str(result.metadata.get("openssl", "?"))
    return f"tde encrypts with {versions[-1]}, the system's is {versions[0]}"
