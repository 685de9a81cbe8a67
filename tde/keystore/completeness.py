"""Telling which keys a keystore has lost, without a look at its cluster.

Every cluster has a record for the WAL and for each tablespace that initdb makes, whatever is
encrypted and however it was made. The one of other tablespaces is in scope cluster only, which a
keystore does not name: there both tablespaces of initdb are encrypted.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from tde.errors import KeystoreError
from tde.keystore.lifecycle import events
from tde.keystore.log.reading import KeyLog, read_key_log
from tde.keystore.store.contents import companions
from tde.keystore.store.names import owner_of_file
from tde.keystore.store.reading import OF_EVERY_CLUSTER
from tde.keystore.store.record import KeyOwner

_CREATED, _ADDED, _DISCARDED = events.CREATE, events.ADD, events.DISCARD


def missing_keys(path: Path, present: Mapping[KeyOwner, bool]) -> list[KeyOwner]:
    """Return whose keys must be in a keystore and are not.

    Args:
        path: the keystore's directory.
        present: whose records are there; whether each has a key and is no plaintext entry.
    """
    try:
        log = read_key_log(path)
    except KeystoreError:
        log = KeyLog(path, [], ["it cannot be read"])
    if not present and not (companions(path) or _tells_of_keys(log)):
        return []  # It was made, and no cluster has begun to use it.
    wanted = list(OF_EVERY_CLUSTER)
    *_, first, second = OF_EVERY_CLUSTER
    if present.get(first) and present.get(second) and _may_have_other(log):
        wanted.append(KeyOwner.other_tablespaces())
    wanted += [owner for owner in _used_keys(log) if owner not in wanted]
    return [owner for owner in wanted if owner not in present]


def _used_keys(log: KeyLog) -> list[KeyOwner]:
    """Return whose keys the log says were used, and not that they are gone.

    An entry of a creation alone proves nothing: the record may not have been written after it.
    """
    used: dict[str, None] = {}
    for entry in log.counting:
        if entry.event == events.ACTIVATE:
            used.update(dict.fromkeys(events.names_of(entry)))
        elif entry.event == _DISCARDED:
            for name in events.names_of(entry):
                used.pop(name, None)
    gone = events.destroyed_keys(log.counting)
    owners = (owner_of_file(name) for name in used if name not in gone)
    return [owner for owner in owners if owner is not None]


def _tells_of_keys(log: KeyLog) -> bool:
    """Tell whether keys were made or brought, and not discarded after that."""
    events = [entry.event for entry in log.counting]
    last = [event for event in events if event in (_CREATED, _ADDED, _DISCARDED)]
    return bool(last) and last[-1] != _DISCARDED


def _may_have_other(log: KeyLog) -> bool:
    """Tell whether there was a key of other tablespaces.

    Scope tablespaces has none, even if somebody has named all tablespaces there. Only a log from
    the beginning proves that.
    """
    if log.problems or not log.begins_with_the_keystore:
        return True
    name = KeyOwner.other_tablespaces().file_name
    return any(
        entry.details.get("key") == name or name in events.names_of(entry)
        for entry in log.counting
        if entry.event in (_CREATED, _ADDED)
    )
