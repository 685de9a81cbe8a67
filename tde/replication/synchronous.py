"""synchronous_standby_names of another server: one more standby, and only where that is plain."""

from __future__ import annotations

import re

from tde.errors import ReplicationError
from tde.replication.remote import RemoteServer

_NAMES = "synchronous_standby_names"
_PLAIN = re.compile(r"\s*|\s*\w+(\s*,\s*\w+)*\s*")
_QUESTION = f"""
SELECT json_build_object(
    'names', current_setting('{_NAMES}'),
    'may', has_function_privilege('pg_reload_conf()', 'execute')
        AND has_parameter_privilege('{_NAMES}', 'ALTER SYSTEM'))
"""


def plain_names(value: str) -> list[str] | None:
    """Return the names that the setting lists; None where it is more than a list of plain names."""
    return re.findall(r"\w+", value) if _PLAIN.fullmatch(value) else None


def names_with(server: RemoteServer, name: str) -> str | None:
    """Return what the setting has to be for a standby to be synchronous; None if it is already.

    Raises:
        ReplicationError: the role may not set it, or what is there is no list of names.
    """
    found = server.ask(_QUESTION)
    names = str(found["names"])
    known = plain_names(names)
    if known is not None and name in known:
        return None
    on_primary = f"When it follows, tde pg primary --sync {name} does it on that machine."
    if known is None:
        raise ReplicationError(
            f"{_NAMES} of {server.name} is {names}: whether {name} belongs there is yours to say",
            remedy=f"Leave out --sync, and add {name} there.",
        )
    if not found["may"]:
        raise ReplicationError(
            f"the role that connects to {server.name} may not change {_NAMES}",
            remedy=f"Leave out --sync. {on_primary}",
        )
    # One of the list is waited for, the first that is connected.
    return ", ".join([*known, name])


def set_names(server: RemoteServer, names: str) -> None:
    """Set it and have the server read it.

    Raises:
        ReplicationError: the server refuses.
    """
    server.tell(f"ALTER SYSTEM SET {_NAMES} = '{names}'")
    server.ask("SELECT to_json(pg_reload_conf())")
