"""Commands that are used in several forms, each with options of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import typer


@dataclass(frozen=True)
class Form:
    """One way to use a command.

    Attributes:
        what: what it is for, in words.
        example: how it is typed.
        parameters: names of those that count in this form.
    """

    what: str
    example: str
    parameters: frozenset[str]

    def __str__(self) -> str:
        return f"{self.what} ({self.example})"


def require_options_of(form: Form, forms: Sequence[Form], context: typer.Context) -> None:
    """Refuse options that only other forms of the command know, and would be passed over.

    What a variable of the environment gives is for all commands, and may be of no use to this one.

    Raises:
        typer.BadParameter: there is one.
    """
    for parameter in context.command.params:
        name = parameter.name or ""
        source = context.get_parameter_source(name)
        if source is None or source.name != "COMMANDLINE" or name in form.parameters:
            continue
        having = " and ".join(str(one) for one in forms if name in one.parameters)
        given = parameter.opts[0]
        raise typer.BadParameter(f"{given} is for {having}, and not for {form}")
