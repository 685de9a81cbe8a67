"""What the commands for standbys say."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rich.markup import escape

from tde.console.output import console, error_console

_WAITING = """
SELECT json_build_object(
    'names', current_setting('synchronous_standby_names'),
    'visible', pg_has_role('pg_monitor', 'usage'),
    'connected', (SELECT count(*) FROM pg_stat_replication
        WHERE sync_state IN ('sync', 'quorum', 'potential')))
"""


def say(*lines: str) -> None:
    """Print lines as they are."""
    for line in lines:
        console.print(line, markup=False, soft_wrap=True)


def warn(what: str, remedy: str) -> None:
    """Print what is wrong, and what to do, on standard error."""
    error_console.print(f"[bold yellow]{escape(what)}[/]: {escape(remedy)}", soft_wrap=True)


def tell_who_is_waited_for(ask: Callable[[str], Any], where: str) -> None:
    """Warn when commits on a primary wait for standbys of which none is connected.

    Args:
        ask: returns the JSON value of a query to that primary.
        where: the primary in messages.
    """
    found = ask(_WAITING)
    if found["names"] and not found["connected"] and found["visible"]:
        warn(
            f"Commits on {where} wait for {found['names']}, and none of these is connected",
            "set synchronous_standby_names there (ALTER SYSTEM, then SELECT pg_reload_conf())",
        )
