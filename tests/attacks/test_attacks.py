"""The table of attacks is what the page says, and each of its tests exists."""

from __future__ import annotations

import ast

import pytest

from tests.attacks.table import PAGE, REPOSITORY, Attack, Outcome, page, read_attacks, verdict


def test_the_page_is_made_of_the_table():
    assert PAGE.read_text(encoding="utf-8") == page(read_attacks())


@pytest.mark.parametrize("attack", read_attacks(), ids=lambda attack: attack.tried)
def test_each_attack_is_done_by_tests(attack):
    assert attack.tests
    for test in attack.tests:
        file, _, name = test.partition("::")
        tree = ast.parse((REPOSITORY / file).read_text(encoding="utf-8"))
        functions = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
        assert name in functions, test


def test_a_failure_and_a_test_that_did_not_run_are_told():
    attack = Attack("who", "tried", "before", "now", ["a", "b"])
    assert verdict(attack, {"a": Outcome(passed=2), "b": Outcome(passed=1)}) == "as said (3 times)"
    assert verdict(attack, {"a": Outcome(passed=2), "b": Outcome()}).startswith("NOT TRIED")
    failing = {"a": Outcome(passed=2, failed=1), "b": Outcome(passed=1)}
    assert verdict(attack, failing).startswith("NOT AS SAID")
