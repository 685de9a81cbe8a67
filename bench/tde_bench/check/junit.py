"""The outcome of a check as JUnit XML, which CI systems show like any other test."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

from tde_bench.check.verdict import Finding, Verdict


def write_verdicts(findings: Sequence[Finding], path: Path) -> None:
    """Write one test case per quantity.

    Raises:
        OSError: when the file cannot be written.
    """
    suite = _suite(
        tests=len(findings),
        failures=sum(finding.verdict.fails for finding in findings),
        skipped=sum(finding.verdict is Verdict.UNDECIDED for finding in findings),
    )
    for finding in findings:
        case = _case(suite, finding.name)
        if finding.verdict.fails:
            failure = ElementTree.SubElement(
                case, "failure", type=finding.verdict.value, message=finding.reason
            )
            failure.text = finding.reason
        elif finding.verdict is Verdict.UNDECIDED:
            ElementTree.SubElement(case, "skipped", message=finding.reason)
        ElementTree.SubElement(case, "system-out").text = finding.reason
    _write(suite, path)


def write_failure(message: str, path: Path) -> None:
    """Write that nothing could be decided, as an error, which is not a failed test.

    Raises:
        OSError: when the file cannot be written.
    """
    suite = _suite(tests=1, errors=1)
    error = ElementTree.SubElement(
        _case(suite, "measurement"), "error", type="not measured", message=message
    )
    error.text = message
    _write(suite, path)


def _suite(
    *, tests: int, failures: int = 0, errors: int = 0, skipped: int = 0
) -> ElementTree.Element:
    counts = {"tests": tests, "failures": failures, "errors": errors, "skipped": skipped}
    attributes = {name: str(count) for name, count in counts.items()}
    return ElementTree.Element("testsuite", {"name": "tde-bench check", **attributes})


def _case(suite: ElementTree.Element, name: str) -> ElementTree.Element:
    return ElementTree.SubElement(suite, "testcase", classname="tde-bench.check", name=name)


def _write(suite: ElementTree.Element, path: Path) -> None:
    root = ElementTree.Element("testsuites")
    root.append(suite)
    ElementTree.indent(root)
    ElementTree.ElementTree(root).write(path, encoding="utf-8", xml_declaration=True)
