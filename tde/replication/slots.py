"""Replication slots, which keep WAL on a server until a standby has it.

A slot that nobody uses keeps WAL until the disk is full, so it goes again with whatever it was made
for, and where it cannot, that is said.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager

from tde.errors import ReplicationError
from tde.replication.remote import RemoteServer

_log = logging.getLogger(__name__)
# The server notices only after a moment that the client of a slot is gone.
_DROP_SECONDS = 10.0
_LOOK_SECONDS = 0.5


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
            _drop(server, name)
        raise


def _drop(server: RemoteServer, name: str) -> None:
    deadline = time.monotonic() + _DROP_SECONDS
    while True:
        try:
            server.ask(f"SELECT to_json(pg_drop_replication_slot('{name}')::text)")
            return
        except ReplicationError as error:
            if time.monotonic() < deadline:
                time.sleep(_LOOK_SECONDS)
                continue
            _log.warning(
                "the replication slot %s of %s is still there and keeps WAL: %s. Drop it there: "
                "SELECT pg_drop_replication_slot('%s')",
                name,
                server.name,
                error,
                name,
            )
            return
