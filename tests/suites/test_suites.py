"""The judgement of the suites: a wrong parser would report success for what never ran."""

from __future__ import annotations

from pathlib import Path

import pytest
from suite_compare import Expected, counts, differences, load_expected
from suite_results import FAIL, PASS, SKIP, TestResult, load, parse_regress, parse_tap, save

SUITES = Path(__file__).parents[2] / "docs" / "postgres-suites.md"

OLD_REGRESS = """\
============== running regression test queries        ==============
test tablespace                   ... ok           91 ms
parallel group (2 tests):  char name
     char                         ... ok           60 ms
     name                         ... FAILED       61 ms
test event_trigger                ... FAILED (test process exited with exit code 2)  19 ms
"""
NEW_REGRESS = """\
# initializing database system by running initdb
ok 1         - tablespace                                 91 ms
# parallel group (2 tests):  char name
ok 2         + char                                       60 ms
not ok 3     + name                                       61 ms
not ok 4     - event_trigger                              19 ms
1..4
"""


def test_tap_counts_checks_and_names_the_failed_ones() -> None:
    output = (
        "ok 1 - starts\nnot ok 2 - stops\n#   Failed\nok 3 # SKIP no tar\n    ok 1 - sub\n1..3\n"
    )
    result = parse_tap(output, 1)
    assert result == TestResult(FAIL, passed=1, skipped=1, failures=["stops"])


@pytest.mark.parametrize(
    ("output", "exit_status"),
    [
        ("ok 1 - a\nok 2 - b\n", 0),
        ("1..3\nok 1 - a\nok 2 - b\n", 0),
        ("", 0),
        ("ok 1 - a\n1..1\n", 29),
        ("ok 1 - a\nBail out!  system pg_ctl failed\n", 255),
    ],
    ids=["no plan", "plan is longer", "nothing", "exit status", "bail out"],
)
def test_a_program_that_did_not_finish_has_failed(output: str, exit_status: int) -> None:
    assert parse_tap(output, exit_status).status == FAIL


def test_a_skipped_program_says_why() -> None:
    result = parse_tap("1..0 # SKIP Injection points not supported\n", 0)
    assert (result.status, result.note) == (SKIP, "Injection points not supported")


@pytest.mark.parametrize("output", [OLD_REGRESS, NEW_REGRESS], ids=["15", "18"])
def test_a_schedule_is_judged_script_by_script(output: str) -> None:
    scheduled = ["tablespace", "char", "name", "event_trigger", "stats"]
    suite = parse_regress(output, scheduled)
    passed = [name for name, result in suite.items() if result.status == PASS]
    assert passed == ["tablespace", "char"]
    assert suite["stats"].failures == ["(did not run)"]


def test_only_listed_failures_are_expected() -> None:
    known = Expected((15,), "recovery", "016", ("torn page",), "Perl reads pages")
    plain = {"016": TestResult(PASS, passed=3), "001": TestResult(PASS, passed=1)}
    listed = {"016": TestResult(FAIL, passed=2, failures=["torn page 7"])}
    other = {"016": TestResult(FAIL, passed=1, failures=["torn page 7", "lost a row"])}
    fewer = {"016": TestResult(PASS, passed=2, skipped=1)}

    def reasons(tde: dict[str, TestResult], major: int = 15) -> list[str]:
        return [d.reason for d in differences(major, "recovery", plain, tde, [known])]

    assert reasons(listed) == ["Perl reads pages"]
    assert reasons(other) == reasons(fewer) == reasons(listed, major=18) == [""]
    assert reasons(plain) == []


def test_counts_tell_tests_from_checks() -> None:
    suite = {
        "001": TestResult(PASS, passed=8),
        "002": TestResult(FAIL, passed=1, failures=["x"]),
        "003": TestResult(SKIP),
    }
    assert counts(suite) == "1 of 2 (9 of 10 checks), 1 skipped"
    assert counts({"boolean": TestResult(PASS, passed=1)}) == "1"
    assert counts({}) == "not run"


def test_results_survive_their_file(tmp_path: Path) -> None:
    suite = {"001": TestResult(FAIL, passed=2, failures=["x"], seconds=1.5, attempts=2)}
    save(tmp_path / "results" / "15.json", suite, {"side": "plain"})
    assert load(tmp_path / "results" / "15.json") == suite
    assert load(tmp_path / "missing.json") == {}


def test_each_expected_difference_is_documented() -> None:
    text = " ".join(SUITES.read_text().split())
    missing = [e.test for e in load_expected() if e.test not in text or e.reason not in text]
    assert missing == []
