"""The table of a check, and the same for CI as JUnit XML."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

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


def write_junit(findings: list[Finding], path: Path) -> None:
    """Write one test case per quantity; CI systems show them like any other test."""
    failures = sum(finding.verdict.fails for finding in findings)
    skipped = sum(finding.verdict is Verdict.UNDECIDED for finding in findings)
    suite = ElementTree.Element(
        "testsuite",
        name="tde-bench check",
        tests=str(len(findings)),
        failures=str(failures),
        errors="0",
        skipped=str(skipped),
    )
    for finding in findings:
        case = ElementTree.SubElement(
            suite, "testcase", classname="tde-bench.check", name=finding.name
        )
        if finding.verdict.fails:
            failure = ElementTree.SubElement(
                case, "failure", type=finding.verdict.value, message=finding.reason
            )
            failure.text = finding.reason
        elif finding.verdict is Verdict.UNDECIDED:
            ElementTree.SubElement(case, "skipped", message=finding.reason)
        ElementTree.SubElement(case, "system-out").text = finding.reason
    root = ElementTree.Element("testsuites")
    root.append(suite)
    ElementTree.indent(root)
    ElementTree.ElementTree(root).write(path, encoding="utf-8", xml_declaration=True)
