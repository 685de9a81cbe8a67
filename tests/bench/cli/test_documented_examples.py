"""Examples in docs/examples: a copied one must not fail on a renamed option."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import typer
from tde_bench import cli

ROOT = Path(__file__).parents[3]
WORKFLOW = (ROOT / "docs" / "examples" / "github-actions.yml").read_text(encoding="utf-8")


def _commands() -> list[list[str]]:
    """Return the words after tde-bench of every command line in the workflow."""
    joined = WORKFLOW.replace("\\\n", " ")
    return [shlex.split(line) for line in re.findall(r"\.venv/bin/tde-bench (.+)", joined)]


def test_commands_and_options_of_the_workflow_exist() -> None:
    known = {
        name: {option for parameter in command.params for option in parameter.opts}
        for name, command in typer.main.get_command(cli.app).commands.items()
    }
    used = _commands()
    assert {words[0] for words in used} == {"check", "report"}
    for name, *words in used:
        options = {word.partition("=")[0] for word in words if word.startswith("--")}
        assert options
        assert options <= known[name], (name, options - known[name])


def test_the_workflow_can_make_the_baseline_that_it_compares_with() -> None:
    assert ["check", "--json", "bench/baseline.json"] in _commands()
    assert any(words[1:3] == ["--baseline", "bench/baseline.json"] for words in _commands())
    assert "\n  workflow_dispatch:\n" in WORKFLOW


def test_the_workflow_uses_public_actions_and_targets_that_exist() -> None:
    assert {action.partition("@")[0] for action in re.findall(r"uses: (\S+)", WORKFLOW)} == {
        "actions/checkout",
        "actions/setup-python",
        "actions/upload-artifact",
    }
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"run: make (\S+)", WORKFLOW):
        assert f"\n{target}:" in makefile
    for script in re.findall(r"bash (\.ci/\S+)", WORKFLOW):
        assert (ROOT / script).exists()
