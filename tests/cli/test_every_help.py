"""What the options of each command say of themselves arrives on the terminal."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from tde.cli.app import COMMANDS, app

runner = CliRunner(env={"COLUMNS": "400", "NO_COLOR": "1", "TDE_KEYSTORE": None, "PGDATA": None})


def commands_below(words: tuple[str, ...], command: Any) -> Iterator[tuple[tuple[str, ...], Any]]:
    yield words, command
    for name, below in getattr(command, "commands", {}).items():
        yield from commands_below((*words, name), below)


EVERY = [
    found
    for noun, (module, _) in COMMANDS.items()
    for found in commands_below((noun,), typer.main.get_command(import_module(module).app))
]


@pytest.mark.parametrize(("words", "command"), EVERY, ids=[" ".join(words) for words, _ in EVERY])
def test_no_word_of_an_option_is_lost(words: tuple[str, ...], command: Any) -> None:
    """Rich takes text in brackets for a style, and leaves it out."""
    shown = " ".join(runner.invoke(app, [*words, "--help"]).stdout.split())
    for parameter in command.params:
        told = getattr(parameter, "help", None)
        if told and not getattr(parameter, "hidden", False):
            assert " ".join(told.split()) in shown
