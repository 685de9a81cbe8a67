"""The table of a check."""

from __future__ import annotations

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tde_bench.check.results import CheckResult, Quantity
from tde_bench.check.verdict import Finding, Verdict
from tde_bench.report import format_interval

_UNKNOWN = "–"
_STYLES = {
    Verdict.REGRESSION: "bold red",
    Verdict.MISSING: "bold red",
    Verdict.UNDECIDED: "yellow",
    Verdict.IMPROVED: "green",
}


def print_quantities(result: CheckResult, quantities: list[Quantity], console: Console) -> None:
    """Print what was measured, when there is nothing to compare it with."""
    table = _table("CPU per unit of work, relative to its reference")
    for heading in ("ratio", "95 % interval", "noise", "µs/unit"):
        table.add_column(heading, justify="right", no_wrap=True)
    for quantity in quantities:
        table.add_row(
            quantity.label,
            f"{quantity.ratio.median:.3f}",
            format_interval(quantity.ratio),
            f"{quantity.noise:.1%}",
            f"{1e6 * quantity.cpu_seconds:.3g}",
        )
    console.print(table)
    _print_warnings(result, console)


def print_findings(
    result: CheckResult, findings: list[Finding], margin: float, console: Console
) -> None:
    """Print the comparison with the baseline, the reasons of what is not ok, and warnings."""
    table = _table("CPU per unit of work, relative to its reference")
    for heading in ("was", "now", "95 % interval", "up to", ""):
        table.add_column(heading, justify="right", no_wrap=True)
    for finding in findings:
        style = _STYLES.get(finding.verdict, "")
        quantity, baseline = finding.quantity, finding.baseline
        table.add_row(
            finding.label,
            _UNKNOWN if baseline is None else f"{baseline.median:.3f}",
            _UNKNOWN if quantity is None else f"{quantity.ratio.median:.3f}",
            _UNKNOWN if quantity is None else format_interval(quantity.ratio),
            _UNKNOWN if finding.allowed is None else f"{finding.allowed:.3f}",
            Text(finding.verdict.value, style),
        )
    console.print(table)
    console.print(
        Text(
            "Was: the baseline. Up to: the end of the baseline's interval, a margin of "
            f"{margin:.0%}, and the noise between equal turns of this run. A regression is an "
            "interval wholly above that.",
            "dim",
        )
    )
    for finding in findings:
        if finding.verdict is not Verdict.OK:
            word = Text(f"{finding.verdict.value}: ", _STYLES.get(finding.verdict, ""))
            console.print(word + Text(finding.reason, ""))
    _print_warnings(result, console)


def _table(title: str) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("", no_wrap=True)
    return table


def _print_warnings(result: CheckResult, console: Console) -> None:
    for warning in result.warnings:
        console.print(Text("Warning: ", "bold yellow") + Text(warning))
