"""Replication slots, which keep WAL on a server until a standby has it.

A slot that nobody uses keeps WAL until the disk is full, so it goes again with whatever it was made
for.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from tde.errors import ReplicationError
from tde.replication.remote import RemoteServer

_NAME = re.compile(r"[a-z0-9_]{1,63}")


def require_slot_name(name: str) -> None:
    """Refuse what cannot be the name of a slot; empty stands for none.

    Raises:
        ReplicationError: it cannot.
    """
    if name and not _NAME.fullmatch(name):
        raise ReplicationError(
            f'"{name}" cannot be the name of a replication slot',
            remedy="Such names have lower-case letters, digits and underscores.",
        )


@contextmanager
def replication_slot(server: RemoteServer, name: str) -> Iterator[None]:
    """Make a slot, unless there is one that nobody uses; take it back when the body fails.

    Args:
        name: empty for none.

    Raises:
        ReplicationError: somebody uses it, or the server refuses.
    """
    if not name:
        yield
        return
    known = server.ask(
        "SELECT coalesce((SELECT json_build_object('active', active, 'type', slot_type) "
        f"FROM pg_replication_slots WHERE slot_name = '{name}'), 'null')"
    )
    if known is not None and (known["active"] or known["type"] != "physical"):
        state = "in use" if known["active"] else "for logical replication"
        raise ReplicationError(
            f"the replication slot {name} of {server.name} is {state}",
            remedy="Name another one with --slot.",
        )
    if known is None:
        # Reserved at once: what is written while the backup is taken is needed after it.
        server.ask(f"SELECT to_json(pg_create_physical_replication_slot('{name}', true)::text)")
    try:
        yield
    except BaseException:
        if known is None:
            with suppress(ReplicationError):
                server.ask(f"SELECT to_json(pg_drop_replication_slot('{name}')::text)")
        raise
