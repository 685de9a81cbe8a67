"""The table of a check."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tde_bench.check.results import CheckResult
from tde_bench.check.verdict import Comparison, Finding, Verdict
from tde_bench.present.formats import UNKNOWN, format_interval, spread_name
from tde_bench.present.terminal import print_warnings

# A run that cannot find such a slowdown has little to say.
_BLIND_BEYOND = 1.5
_STYLES = {
    Verdict.REGRESSION: "bold red",
    Verdict.MISSING: "bold red",
    Verdict.UNDECIDED: "yellow",
    Verdict.IMPROVED: "green",
}


def quantities_table(result: CheckResult) -> Table:
    """Return what was measured, when there is nothing to compare it with."""
    quantities = result.quantities()
    spread = spread_name(quantity.ratio for quantity in quantities)
    table = _table("ratio", spread, "noise", "µs/unit")
    for quantity in quantities:
        table.add_row(
            quantity.label,
            f"{quantity.ratio.median:.3f}",
            format_interval(quantity.ratio),
            f"{quantity.noise:.1%}",
            f"{1e6 * quantity.cpu_seconds:.3g}",
        )
    return table


def findings_table(findings: Sequence[Finding]) -> Table:
    """Return the comparison with the baseline."""
    known = [finding.quantity for finding in findings if finding.quantity is not None]
    spread = spread_name(quantity.ratio for quantity in known)
    table = _table("was", "now", spread, "up to", "finds", "verdict")
    for finding in findings:
        quantity, baseline = finding.quantity, finding.baseline
        slowdown = finding.smallest_slowdown
        table.add_row(
            finding.label,
            UNKNOWN if baseline is None else f"{baseline.median:.3f}",
            UNKNOWN if quantity is None else f"{quantity.ratio.median:.3f}",
            UNKNOWN if quantity is None else format_interval(quantity.ratio),
            UNKNOWN if finding.allowed is None else f"{finding.allowed:.3f}",
            UNKNOWN if slowdown is None else f"+{slowdown - 1:.0%}",
            Text(finding.verdict.value, _STYLES.get(finding.verdict, "")),
        )
    return table


def _table(*headings: str) -> Table:
    table = Table(
        title="CPU per unit of work, relative to its reference",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )
    # The figures fit a terminal of 80 columns when names may take a second line.
    table.add_column("")
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    return table


def explanation(comparison: Comparison) -> str:
    """Say what the columns of the comparison mean."""
    return (
        "Was: the baseline. Up to: the end of the baseline's interval, a margin of "
        f"{comparison.margin:.0%}, and the noise between equal turns of this run. A regression is "
        "an interval wholly above that. Finds: the smallest increase over the baseline that this "
        "run could have called one. What is compared with a plain server is the CPU of the whole "
        "server, of which encryption is a part."
    )


def conclusion(findings: Sequence[Finding]) -> str:
    """Say in one sentence whether the check has passed."""
    failed = [finding.label for finding in findings if finding.verdict.fails]
    text = f"The check failed: {', '.join(failed)}." if failed else "The check passed."
    if findings and all(finding.verdict is Verdict.UNDECIDED for finding in findings):
        text = "Nothing was decided: too few rounds, or too much noise."
    blind = [f.label for f in findings if (f.smallest_slowdown or 0) > _BLIND_BEYOND]
    if blind:
        text += (
            f" It could not have found {_BLIND_BEYOND - 1:.0%} more in {', '.join(blind)}: this "
            "run or its baseline was too noisy. Repeat it on a quieter machine."
        )
    return text


def print_check(result: CheckResult, console: Console) -> None:
    """Print the table, what it says when there is a baseline, and warnings."""
    findings = result.findings()
    if result.comparison is None or not findings:
        console.print(quantities_table(result))
    else:
        console.print(findings_table(findings))
        console.print(Text(explanation(result.comparison), "dim"))
        for finding in findings:
            if finding.verdict is not Verdict.OK:
                word = Text(f"{finding.verdict.value}: ", _STYLES.get(finding.verdict, ""))
                console.print(word + Text(finding.reason, ""))
        console.print(conclusion(findings))
    print_warnings(result, console)
