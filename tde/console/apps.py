"""Typer applications, and the examples in their help."""

from __future__ import annotations

import typer
from rich.markup import escape


def examples(*lines: str) -> str:
    """Return a help epilog that shows ``lines`` as shell commands, one per line.

    A line that starts with ``#`` is a comment for the command that follows it.
    """
    shown = ["[bold]Examples[/bold]"]
    for line in lines:
        text = escape(line)
        shown.append(f"[dim]{text}[/dim]" if line.startswith("#") else f"[dim]$[/dim] {text}")
    return "\n".join(shown)


def new_app(help_text: str, *, epilog: str = "") -> typer.Typer:
    """Return the Typer application of one noun, with the settings that all nouns share."""
    return typer.Typer(
        help=help_text,
        epilog=epilog,
        no_args_is_help=True,
        rich_markup_mode="rich",
        # Only the root installs completion, which then covers all nouns.
        add_completion=False,
        # Rich tracebacks can print local variables, and some of those are keys.
        pretty_exceptions_enable=False,
    )
