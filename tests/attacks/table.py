"""``make attacks``: do every attack of attacks.json to real servers, and print what came of it."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.junit import Result, read_report

REPOSITORY = Path(__file__).parents[2]
PAGE = REPOSITORY / "docs" / "attacks.md"

_HEAD = """\
# Attacks

    make attacks

What attackers, accidents and power cuts did to an earlier release, and what comes of it now. The
command does all of it again, to real servers, and prints this table with the outcome of today; the
tests that do it are named in `tests/attacks/attacks.json`. What stays possible is in
[threat-model.md](threat-model.md); power cuts have a page of their own,
[power-loss.md](power-loss.md).

| # | who | what was tried | before | now |
|---|---|---|---|---|
"""


@dataclass(frozen=True)
class Attack:
    """A row of the table, and the node IDs of its tests."""

    who: str
    tried: str
    before: str
    now: str
    tests: Sequence[str]


@dataclass
class Outcome:
    """How often a test ran, with each version of PostgreSQL and each variant, and failed."""

    passed: int = 0
    failed: int = 0


def read_attacks() -> list[Attack]:
    text = (Path(__file__).parent / "attacks.json").read_text(encoding="utf-8")
    return [Attack(**entry) for entry in json.loads(text)]


def page(attacks: Sequence[Attack]) -> str:
    """Return docs/attacks.md."""
    rows = [
        f"| {number} | {attack.who} | {attack.tried} | {attack.before} | {attack.now} |\n"
        for number, attack in enumerate(attacks, 1)
    ]
    return _HEAD + "".join(rows)


def run_tests(tests: Sequence[str], arguments: Sequence[str]) -> dict[str, Outcome]:
    """Run tests and return their outcomes by node ID; skipped ones are in neither count."""
    outcomes = {test: Outcome() for test in tests}
    with tempfile.TemporaryDirectory() as directory:
        report = Path(directory) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-q", f"--junitxml={report}"]
        subprocess.run([*command, *arguments, *tests], cwd=REPOSITORY, check=False)
        for case in read_report(report):
            outcome = outcomes[case.node_id.partition("[")[0]]
            outcome.failed += case.result is Result.FAILED
            outcome.passed += case.result is Result.PASSED
    return outcomes


def verdict(attack: Attack, outcomes: Mapping[str, Outcome]) -> str:
    of_attack = [outcomes[test] for test in attack.tests]
    failed = sum(outcome.failed for outcome in of_attack)
    if failed:
        return f"NOT AS SAID: {failed} of its tests failed"
    if not all(outcome.passed for outcome in of_attack):
        return "NOT TRIED on this machine"
    return f"as said ({sum(outcome.passed for outcome in of_attack)} times)"


def main() -> int:
    parser = argparse.ArgumentParser(prog="make attacks", description=__doc__)
    parser.add_argument("--write-page", action="store_true", help="write docs/attacks.md and stop")
    parser.add_argument("pytest_arguments", nargs="*", help="for example -n 2")
    options = parser.parse_args()
    attacks = read_attacks()
    if options.write_page:
        PAGE.write_text(page(attacks), encoding="utf-8")
        return 0
    tests = [test for attack in attacks for test in attack.tests]
    outcomes = run_tests(tests, options.pytest_arguments)
    print("\n| # | who | what was tried | before | now | today |\n|---|---|---|---|---|---|")
    as_said = True
    for number, attack in enumerate(attacks, 1):
        today = verdict(attack, outcomes)
        as_said &= not today.startswith("NOT AS SAID")
        print(
            f"| {number} | {attack.who} | {attack.tried} | {attack.before} | {attack.now} "
            f"| {today} |"
        )
    return 0 if as_said else 1


if __name__ == "__main__":
    sys.exit(main())
