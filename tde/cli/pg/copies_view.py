"""Plaintext copies of encrypted tables, as people see them."""

from __future__ import annotations

from tde.postgres.tablespace.plain_copies import PlainCopies


def not_seen(found: PlainCopies) -> list[str]:
    """Return a line for everything that was not looked at."""
    what = "plaintext copies of encrypted tables (indexes, statistics and others)"
    if found.obstacle:
        return [f"Not looked for: {what}: {found.obstacle}"]
    return [
        f"Not looked for in database {name}: {what}: {why}" for name, why in found.unread.items()
    ]
