"""Consoles: results on standard output, everything about them on standard error."""

from __future__ import annotations

import json
from collections.abc import Iterable

import typer
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from tde.printable import printable_lines


class _PlainConsole(Console):
    """A console that nothing of what it shows can steer, such as the name of a file."""

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """Yield the segments, with control characters of their text as escapes."""
        for text, style, control in super().render(renderable, options):
            yield Segment(text if control else printable_lines(text), style, control)


# Results go to stdout and everything about them to stderr, so that output can be piped.
# Automatic highlighting is off because it colours parts of paths and UUIDs at random.
console = _PlainConsole(highlight=False)
error_console = _PlainConsole(stderr=True, highlight=False)

VERDICT_STYLES = {"ok": "green", "warning": "yellow", "problem": "bold red", "unknown": "magenta"}
"""How verdicts are shown, in the order in which they are counted."""


def print_json(document: object) -> None:
    """Print ``document`` as indented JSON on standard output."""
    typer.echo(json.dumps(document, indent=2))
