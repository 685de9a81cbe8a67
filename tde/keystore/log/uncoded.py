"""Which entries of the key log may lack a code: those of a closed list, which decide nothing.

Who may write to the keystore's directory and has no key of it can append any line, and the next
entry with a code speaks for it through the chain. So what limits, places, marks and destructions
are read from must have a code of its own. No release has written another event without one.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from tde.keystore.store.names import owner_of_file
from tde.keystore.store.record import OwnerKind

if TYPE_CHECKING:
    from tde.keystore.log.entry import LogEntry

_WITHOUT_CODE = frozenset(
    {
        "fail to open keystore",
        "back up keystore",
        "restore keystore",
        "remove provider",
        "disable auto-open",
        "close for sessions",
    }
)
CREATE_EVENT = "create key"
TELLING_OF_A_KEY = (CREATE_EVENT, "add keys", "discard keys", "destroy key", "key destroyed")
"""Before the creation of a key in SQL, which has no code, none of these names that key."""


def without_needed_code(entries: Iterable[LogEntry]) -> dict[int, str]:
    """Return the entries that lack a code and need one: by their position what is wrong with them.

    Args:
        entries: the oldest first, with all of `TELLING_OF_A_KEY` when some are left out.
    """
    found = {}
    named: set[str] = set()
    for position, entry in enumerate(entries):
        if _lacks_code(entry, named):
            found[position] = (
                f"has no code, and {entry.event!r} must have one: somebody has written it without "
                "a key of the keystore"
            )
        elif entry.event in TELLING_OF_A_KEY:
            named.update(_names_in(entry))
    return found


def _lacks_code(entry: LogEntry, named: set[str]) -> bool:
    if entry.master_key_id is not None or entry.event in _WITHOUT_CODE:
        return False
    return not _is_first_of_key_of_sql(entry, named)


def _is_first_of_key_of_sql(entry: LogEntry, named: set[str]) -> bool:
    """Tell whether an entry is that of a key that a server has made, which has no passphrase.

    A second one could make a key younger, or take back its destruction.
    """
    name = entry.details.get("key")
    if entry.event != CREATE_EVENT or entry.details.get("by") != "SQL":
        return False
    if not isinstance(name, str) or name in named or "state" in entry.details:
        return False
    owner = owner_of_file(name)
    return owner is not None and owner.kind is OwnerKind.NAMED


def _names_in(entry: LogEntry) -> list[str]:
    names = [entry.details.get("key")]
    keys = entry.details.get("keys")
    if isinstance(keys, dict | list):
        names += keys
    return [name for name in names if isinstance(name, str)]
