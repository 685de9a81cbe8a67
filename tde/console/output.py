"""Consoles: results on standard output, everything about them on standard error."""

from __future__ import annotations

import json

import typer
from rich.console import Console

# Results go to stdout and everything about them to stderr, so that output can be piped.
# Automatic highlighting is off because it colours parts of paths and UUIDs at random.
console = Console(highlight=False)
error_console = Console(stderr=True, highlight=False)


def print_json(document: object) -> None:
    """Print ``document`` as indented JSON on standard output."""
    typer.echo(json.dumps(document, indent=2))
