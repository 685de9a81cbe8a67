"""The rule of the front doors that import-linter does not see: a stub names what they offer."""

from __future__ import annotations

import ast
from pathlib import Path

TDE = Path(__file__).parents[2] / "tde"
# Commands come in by the doors, and whoever likes by that of the keystore, which stands below.
DOORS = {"tde": TDE, "tde.postgres": TDE / "postgres"}


def is_module(folder: Path, name: str) -> bool:
    """A module is not something that a door offers; `_core` is compiled, with a stub here."""
    places = (folder / name, folder / f"{name}.py", folder / f"{name}.pyi")
    return any(place.exists() for place in places)


def comes_in_by_a_door(statement: ast.stmt) -> bool:
    return (
        isinstance(statement, ast.ImportFrom)
        and statement.module in DOORS
        and not all(is_module(DOORS[statement.module], alias.name) for alias in statement.names)
    )


def test_nothing_below_the_commands_comes_in_by_a_front_door() -> None:
    astray = {
        str(path.relative_to(TDE))
        for path in TDE.rglob("*.py")
        if path.relative_to(TDE).parts[0] != "cli"
        for statement in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(statement, ast.stmt) and comes_in_by_a_door(statement)
    }
    assert not astray
