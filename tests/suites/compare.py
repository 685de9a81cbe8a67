"""Compare the results of stock programs and of the wrappers, and explain what differs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

from tests.suites.results import FAIL, PASS, SKIP, Suite, TestResult

EXPECTED = Path(__file__).with_name("expected.json")


@dataclass(frozen=True)
class Expected:
    """A difference with a reason. ``checks`` are starts of the names of the checks that fail."""

    versions: tuple[int, ...]
    suite: str
    test: str
    checks: tuple[str, ...]
    reason: str

    def explains(self, major: int, suite: str, name: str, tde: TestResult) -> bool:
        """Whether this is the reason for what was seen; more failures than listed are not."""
        return (
            major in self.versions
            and (suite, name) == (self.suite, self.test)
            and tde.status == FAIL
            and all(check.startswith(self.checks) for check in tde.failures)
        )


@dataclass(frozen=True)
class Difference:
    """A test whose result depends on encryption."""

    major: int
    suite: str
    name: str
    plain: TestResult
    tde: TestResult
    reason: str
    """Empty when nobody has explained it."""


def load_expected(path: Path = EXPECTED) -> list[Expected]:
    """Read the list of expected differences."""
    return [
        Expected(tuple(e["versions"]), e["suite"], e["test"], tuple(e["checks"]), e["reason"])
        for e in json.loads(path.read_text())
    ]


def differences(
    major: int, suite: str, plain: Suite, tde: Suite, expected: list[Expected]
) -> Iterator[Difference]:
    """Yield the tests that ran on both sides with different results."""
    for name in sorted(plain.keys() & tde.keys()):
        if plain[name].outcome != tde[name].outcome:
            reasons = (e.reason for e in expected if e.explains(major, suite, name, tde[name]))
            yield Difference(major, suite, name, plain[name], tde[name], next(reasons, ""))


def counts(suite: Suite) -> str:
    """Return how many tests, and checks within them, a suite passed."""
    if not suite:
        return "not run"
    ran = [result for result in suite.values() if result.status != SKIP]
    passed = sum(result.status == PASS for result in ran)
    checks = sum(result.passed for result in ran)
    failures = sum(len(result.failures) for result in ran)
    text = _of(passed, len(ran))
    if checks + failures != len(ran):
        text += f" ({_of(checks, checks + failures)} checks)"
    skipped = len(suite) - len(ran)
    return text + (f", {skipped} skipped" if skipped else "")


def _of(part: int, whole: int) -> str:
    return f"{whole}" if part == whole else f"{part} of {whole}"


def summary(rows: list[tuple[int, str, Suite, Suite, list[Difference]]]) -> Table:
    """Return the table that shows each suite side by side."""
    table = Table(title="Tests that pass, of those that ran")
    for heading in ("PostgreSQL", "suite", "stock", "tde", "differences"):
        table.add_column(heading)
    for major, suite, plain, tde, found in rows:
        unexplained = sum(not difference.reason for difference in found)
        words = f"{len(found)}, all expected" if found else "none"
        if unexplained:
            words = f"[bold red]{len(found)}, {unexplained} unexpected[/]"
        if not plain or not tde:
            words = "–"
        table.add_row(str(major), suite, counts(plain), counts(tde), words)
    return table


def describe(difference: Difference) -> str:
    """Return one difference in full, as plain text."""
    d = difference
    lines = [f"{d.major} {d.suite}/{d.name}: stock {d.plain.text}; tde {d.tde.text}"]
    lines += [f"    fails: {check}" for check in d.tde.failures if check not in d.plain.failures]
    lines.append(f"    {d.reason or 'NOT EXPECTED'}")
    return "\n".join(lines)
