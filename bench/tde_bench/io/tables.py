"""The table at the end of ``tde-bench io``, and what it means."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from tde_bench.io.results import Cost, IoResult, worst
from tde_bench.present.formats import UNKNOWN
from tde_bench.present.terminal import compact_table, print_warnings


def print_report(result: IoResult, console: Console) -> None:
    """Print a table per configuration, the verdicts and the warnings."""
    if not result.runs:
        console.print("Nothing was measured, so there is nothing to report.")
        return
    costs = result.classes()
    for configuration in dict.fromkeys(cost.configuration for cost in costs):
        console.print()
        console.print(io_table(result, configuration, costs))
    console.print(Text(explanation(result), "dim"))
    console.print()
    for line in verdicts(result):
        console.print(Text(line))
    print_warnings(result, console)


def io_table(result: IoResult, configuration: str, costs: Sequence[Cost]) -> Table:
    """Build the table of one configuration, a line per class of files; it fits 80 columns."""
    table = compact_table(f"{result.labels[configuration]}: what a call and a page cost more, ns")
    table.add_column("", no_wrap=True)
    headings = ["plain\ncall", "added\na call", "added\na page", "cipher\nhere", "cipher\nalone"]
    for heading in [*headings, "÷ cipher\nalone", "halves"]:
        table.add_column(heading, justify="right", no_wrap=True)
    for cost in costs:
        if cost.configuration != configuration:
            continue
        table.add_row(
            cost.label,
            f"{cost.plain_ns:.0f}",
            f"{cost.added_ns_per_call:.0f}",
            _whole(cost.added_ns_per_page),
            _whole(cost.bare_ns_per_page),
            _whole(cost.cipher_ns),
            UNKNOWN if cost.ratio is None else f"{cost.ratio:.2f}",
            UNKNOWN if cost.low is None else f"{cost.low:.2f}–{cost.high:.2f}",
        )
    return table


def _whole(value: float | None) -> str:
    return UNKNOWN if value is None else f"{value:.0f}"


def verdicts(result: IoResult) -> list[str]:
    """Name the worst class of each configuration, and where it is worst."""
    lines = []
    costs, streams = result.classes(), result.streams()
    for name, label in result.labels.items():
        cost = worst(costs, name)
        if cost is None or cost.ratio is None:
            continue
        own = [each for each in streams if each.stream == cost.stream]
        place = worst(own, name)
        where = "" if place is None else f", most in {place.traces[0]} ({place.ratio:.2f})"
        lines.append(
            f"{label}: the worst class is {cost.label}, {cost.ratio:.2f} times the cipher "
            f"alone{where}."
        )
    return lines


def explanation(result: IoResult) -> str:
    """Say what the columns mean."""
    machine = result.metadata.get("cpu", {})
    return (
        f"{machine.get('model', 'unknown CPU')}; {result.metadata.get('libcrypto', '?')}; files on "
        f"{(result.metadata.get('filesystem') or {}).get('type', '?')}.\n"
        "Calls that PostgreSQL made, made again by one thread, with the interposer and without; "
        f"minima of {result.parameters['rounds']} rounds. Cipher here: the cipher in front of each "
        "call and nothing else, with the memory that the call uses. Cipher alone: one page that "
        "never leaves the processor's cache, the fastest it can be. Halves: the ratio from odd and "
        "from even rounds."
    )
