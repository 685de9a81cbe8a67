"""Results of suites: read from what the test programs print, kept as JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

PASS, FAIL, SKIP = "pass", "fail", "skip"
UNFINISHED = "(ended before its last check)"

# TAP: "ok 3 - description # SKIP reason". Subtests are indented, and counted by the line that
# ends them. pg_regress since 16 puts "+" before scripts of a parallel group, "-" before others.
_CHECK = re.compile(r"(not )?ok\s+\d+\s*(?:[-+]\s*)?(.*?)\s*(?:#\s*(skip|todo)\b.*)?$", re.I)
_PLAN = re.compile(r"1\.\.(\d+)(?:\s*#\s*skip\S*\s*(.*))?", re.I)
# pg_regress up to 15: "test boolean   ... ok   12 ms", or the same without "test" in a group.
_OLD_SCRIPT = re.compile(r"(?:test |\s+)(\S+)\s+\.\.\. (ok|FAILED|failed)\b")
_DURATION = re.compile(r"\s+\d+ ms$")


@dataclass
class TestResult:
    """One test program, or one script of a regression schedule."""

    __test__ = False  # Not a test class of pytest, in spite of its name.

    status: str
    passed: int = 0
    skipped: int = 0
    failures: list[str] = field(default_factory=list)
    seconds: float = 0.0
    attempts: int = 1
    note: str = ""

    @property
    def outcome(self) -> tuple[str, int, int, tuple[str, ...]]:
        """What must be equal with and without encryption."""
        return self.status, self.passed, self.skipped, tuple(self.failures)

    @property
    def text(self) -> str:
        """The outcome in a few words."""
        if self.status == SKIP:
            return "skipped"
        if self.status == PASS:
            return f"{self.passed} ok" + (f", {self.skipped} skipped" if self.skipped else "")
        return f"{self.passed} ok, {len(self.failures)} failed"


Suite = dict[str, TestResult]


def parse_tap(output: str, exit_status: int) -> TestResult:
    """Judge one TAP program by its checks, its plan and its exit status."""
    result = TestResult(PASS)
    planned: int | None = None
    seen = 0
    for line in output.splitlines():
        if check := _CHECK.match(line):
            seen += 1
            failed, description, directive = check.groups()
            if directive:
                result.skipped += 1
            elif failed:
                result.failures.append(description)
            else:
                result.passed += 1
        elif plan := _PLAN.match(line):
            planned = int(plan[1])
            if planned == 0:
                return TestResult(SKIP, note=plan[2] or "")
    if planned != seen:
        result.failures.append(UNFINISHED)
    elif exit_status != 0 and not result.failures:
        result.failures.append(f"(exit status {exit_status})")
    result.status = FAIL if result.failures else PASS
    return result


def parse_schedule(text: str) -> list[str]:
    """Return the scripts that a schedule file names, in its order."""
    lines = (line.partition("test:") for line in text.splitlines())
    return [
        name for before, found, names in lines if found and not before for name in names.split()
    ]


def parse_regress(output: str, scheduled: list[str]) -> Suite:
    """Judge each script of a schedule by what pg_regress or pg_isolation_regress printed."""
    printed = dict(_printed_scripts(output))
    suite: Suite = {}
    for name in scheduled:
        if name not in printed:
            suite[name] = TestResult(FAIL, failures=["(did not run)"])
        elif printed[name]:
            suite[name] = TestResult(PASS, passed=1)
        else:
            suite[name] = TestResult(FAIL, failures=["its output differs from the expected one"])
    return suite


def _printed_scripts(output: str) -> Iterator[tuple[str, bool]]:
    for line in output.splitlines():
        if old := _OLD_SCRIPT.match(line):
            yield old[1], old[2] == "ok"
        elif new := _CHECK.match(line):
            yield _DURATION.sub("", new[2]), not new[1]


def save(path: Path, results: Suite, facts: dict[str, object]) -> None:
    """Write the results of one suite on one side, after facts about the run."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tests = {name: asdict(result) for name, result in results.items()}
    path.write_text(json.dumps({**facts, "tests": tests}, indent=1) + "\n")


def load(path: Path) -> Suite:
    """Read what :func:`save` has written; empty when the suite has not run."""
    if not path.exists():
        return {}
    return {name: TestResult(**r) for name, r in json.loads(path.read_text())["tests"].items()}
