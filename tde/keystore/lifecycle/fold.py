"""The lives of keys, folded from the entries of the key log, the records and a look at clusters.

No file is read here. What the log says counts; what a cluster uses now counts before it, because
an earlier release, a tool past ``tde`` or another node has told nothing. Times are never guessed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from tde.algorithms import Algorithm
from tde.keystore.lifecycle import events
from tde.keystore.lifecycle.events import Place
from tde.keystore.lifecycle.limits import AgeLimits
from tde.keystore.lifecycle.states import Fact, KeyLife, KeyState, KeyUse, LifeEvent
from tde.keystore.log.entry import LogEntry
from tde.keystore.store.names import owner_of_file
from tde.keystore.store.record import KeyOwner, OwnerKind

_NEVER_TOLD = "unknown: the key log does not tell of it"
_OF_EARLIER_RELEASE = "unknown: an earlier release of tde did not write it down"


def fold_lives(
    entries: Iterable[LogEntry],
    records: Mapping[KeyOwner, Algorithm | None],
    limits: AgeLimits,
    uses: Iterable[KeyUse] = (),
    unfinished: Iterable[str] = (),
) -> list[KeyLife]:
    """Return the lives of the keys of a keystore, then of those that are not there any more.

    Args:
        entries: of the log, the oldest first.
        records: whose records are there; the algorithm is ``None`` for a plaintext entry.
        uses: what clusters do with keys now.
        unfinished: names of files whose destruction was begun, and which are still there.
    """
    # Names are made once: they are texts of ids, and there may be ten thousand.
    present = {owner.file_name: (owner, algorithm) for owner, algorithm in records.items()}
    entries = list(entries)
    found = _Lives(((name, _Life()) for name in present), events.places_of(entries))
    for entry in entries:
        handler = _HANDLERS.get(entry.event)
        if handler is not None:
            handler(found, entry)
    used: dict[str, list[KeyUse]] = {}
    for use in uses:
        used.setdefault(use.owner.file_name, []).append(use)
    begun = set(unfinished)
    lives = []
    for name, (owner, algorithm) in present.items():
        life = found[name]
        lives.append(
            _finished(owner, algorithm, True, life, used.get(name, ()), limits, name in begun)
        )
    for name, life in found.items():
        gone = None if name in present else owner_of_file(name)
        if gone is not None and not life.is_plaintext:
            algorithm = life.algorithm
            lives.append(
                _finished(gone, algorithm, False, life, used.get(name, ()), limits, name in begun)
            )
    return lives


@dataclass
class _Life:
    """What the log has told of one key so far."""

    algorithm: Algorithm | None = None
    is_plaintext: bool = False
    created: Fact | None = None
    activated: Fact | None = None
    deactivated: Fact | None = None
    suspended: Fact | None = None
    compromised: Fact | None = None
    destroyed: Fact | None = None
    gone: Fact | None = None  # Its destruction was finished, so its record cannot be there.
    reason: str = ""
    is_told: bool = False  # Whether the release that made it writes down when a key is activated.
    version: int | None = None
    active: dict[Place, str] = field(default_factory=dict)  # What it is for.
    purposes: dict[str, None] = field(default_factory=dict)
    events: list[LifeEvent] = field(default_factory=list)


class _Lives(dict[str, _Life]):
    """Lives by the names of the keys' files.

    Attributes:
        places: of which cluster entries tell, by their numbers.
        versions: by cluster and purpose, how many keys it has had.
    """

    def __init__(self, lives: Iterable[tuple[str, _Life]], places: Mapping[int, Place]) -> None:
        super().__init__(lives)
        self.places = places
        self.versions: Counter[tuple[Place, str]] = Counter()


_ALGORITHMS = {algorithm.label: algorithm for algorithm in Algorithm}


def author_of(entry: LogEntry) -> str:
    """Return who has written an entry: who had logged in, and as whom."""
    who = entry.who
    user, login = who.get("user", "?"), who.get("login")
    return str(user) if login in (None, user) else f"{login} as {user}"


def fact_of(entry: LogEntry, who: str = "") -> Fact:
    """Return the fact that an entry tells of."""
    source = f"entry {entry.number} of the key log"
    return Fact(entry.time, source, entry.number, who or author_of(entry))


def _told(found: _Lives, entry: LogEntry, name: Any, event: str, detail: str = "") -> _Life:
    life = found.get(name)
    if life is None:
        life = found[str(name)] = _Life()
    life.events.append(LifeEvent(entry.time, event, detail, author_of(entry), entry.number))
    return life


def _created(found: _Lives, entry: LogEntry) -> None:
    label = str(entry.details.get("algorithm", ""))
    life = _told(found, entry, entry.details.get("key"), "created", label)
    life.algorithm = _ALGORITHMS.get(label)
    life.is_plaintext = life.algorithm is None
    life.created = fact_of(entry)
    life.is_told = "state" in entry.details
    life.destroyed = life.gone = None


def _added(found: _Lives, entry: LogEntry) -> None:
    created = entry.details.get("created")
    times = created if isinstance(created, Mapping) else {}
    for name in events.names_of(entry):
        life = _told(found, entry, name, "copied", f"from {entry.details.get('source')}")
        if life.created is not None:
            continue
        source = f"the log of {entry.details.get('source')}, in entry {entry.number}"
        try:
            life.created = Fact(datetime.fromisoformat(times[name]), source, entry.number)
        except (KeyError, TypeError, ValueError):
            source = f"unknown: copied on {entry.time:%Y-%m-%d}, in entry {entry.number}"
            life.created = Fact(None, source, entry.number)


def _discarded(found: _Lives, entry: LogEntry) -> None:
    for name in events.names_of(entry):
        life = _told(found, entry, name, "discarded", "it had protected nothing")
        life.active.clear()
        life.destroyed = fact_of(entry)


def _activated(found: _Lives, entry: LogEntry) -> None:
    cluster = found.places[entry.number]
    for name, use in events.names_of(entry).items():
        life = _told(found, entry, name, "activated", f"{use} of {cluster.directory}")
        life.active[cluster] = use
        life.activated = life.activated or _activation_by(entry)
        life.deactivated = None
        if use not in life.purposes:
            found.versions[cluster, use] += 1
            life.version = found.versions[cluster, use]
            life.purposes[use] = None


def _activation_by(entry: LogEntry) -> Fact:
    """Return when a key was activated; one that was found in use may be so for years."""
    fact = fact_of(entry)
    if "found" not in entry.details:
        return fact
    return fact._replace(time=None, source=f"unknown: found in use, {fact.source}")


def _deactivated(found: _Lives, entry: LogEntry) -> None:
    cluster = found.places[entry.number]
    for name, why in events.names_of(entry).items():
        life = _told(found, entry, name, "deactivated", f"{why}, in {cluster.directory}")
        life.active.pop(cluster, None)
        if not life.active:
            life.deactivated = fact_of(entry)


def _marked(found: _Lives, entry: LogEntry) -> None:
    state, reason = entry.details.get("state"), str(entry.details.get("reason", ""))
    life = _told(found, entry, entry.details.get("key"), f"marked {state}", reason)
    life.reason = reason
    if state == KeyState.COMPROMISED.value:
        life.compromised = life.compromised or fact_of(entry)
    elif state == KeyState.SUSPENDED.value:
        life.suspended = fact_of(entry)
    elif state == KeyState.ACTIVE.value:
        life.suspended = None


def _destroying(found: _Lives, entry: LogEntry) -> None:
    name = entry.details.get("key")
    life = _told(found, entry, name, "destruction begun", str(entry.details.get("reason", "")))
    life.destroyed = fact_of(entry)


def _kept(found: _Lives, entry: LogEntry) -> None:
    why = str(entry.details.get("reason", ""))
    life = _told(found, entry, entry.details.get("key"), "kept after all", why)
    life.destroyed = life.gone = None


def _destroyed(found: _Lives, entry: LogEntry) -> None:
    life = _told(found, entry, entry.details.get("key"), "destroyed")
    life.destroyed = life.gone = fact_of(entry)
    life.active.clear()


def _forgot(found: _Lives, entry: LogEntry) -> None:
    """Take back what a cluster that is gone was told to encrypt with."""
    directory = Path(events.directory_of(entry))
    for name, life in found.items():
        gone = [cluster for cluster in life.active if cluster.directory == directory]
        for cluster in gone:
            del life.active[cluster]
        if gone:
            _told(found, entry, name, "deactivated", f"{directory} is gone")
            if not life.active:
                life.deactivated = fact_of(entry)


_HANDLERS = {
    events.CREATE: _created,
    events.ADD: _added,
    events.DISCARD: _discarded,
    events.ACTIVATE: _activated,
    events.DEACTIVATE: _deactivated,
    events.MARK: _marked,
    events.FORGET: _forgot,
    events.DESTROY: _destroying,
    events.KEEP: _kept,
    events.DESTROYED: _destroyed,
}


def _finished(
    owner: KeyOwner,
    algorithm: Algorithm | None,
    present: bool,
    life: _Life,
    uses: Sequence[KeyUse],
    limits: AgeLimits,
    unfinished: bool,
) -> KeyLife:
    is_key = not present or algorithm is not None
    state, source = _state(owner, life, present, uses, unfinished) if is_key else (None, "")
    created = life.created
    if created is None and is_key:
        created = Fact(None, _NEVER_TOLD)
    activated, deactivated = life.activated, life.deactivated
    if activated is None and state not in (None, KeyState.PRE_ACTIVATION, KeyState.UNKNOWN):
        was_used = uses or deactivated is not None
        activated = Fact(None, _OF_EARLIER_RELEASE) if was_used else None
    if state is KeyState.DEACTIVATED and deactivated is None:
        deactivated = Fact(None, _OF_EARLIER_RELEASE)
    elif state is KeyState.ACTIVE:
        deactivated = None
    return KeyLife(
        owner=owner,
        algorithm=algorithm,
        state=state,
        state_source=source,
        present=present,
        version=_version(owner, life, uses),
        created=created,
        activated=activated,
        deactivated=deactivated,
        suspended=life.suspended,
        compromised=life.compromised,
        destroyed=life.destroyed if state is not None and state.is_destroyed else None,
        reason=life.reason,
        max_age=limits.of_key(owner) if is_key else None,
        purposes=tuple(life.purposes),
        used_by=tuple(uses),
        unfinished=unfinished,
        put_back=life.gone if present else None,
        events=tuple(life.events),
    )


def _state(
    owner: KeyOwner, life: _Life, present: bool, uses: Sequence[KeyUse], unfinished: bool
) -> tuple[KeyState, str]:
    if not present and not unfinished and life.destroyed is not None:
        gone = KeyState.DESTROYED_COMPROMISED if life.compromised else KeyState.DESTROYED
        return gone, life.destroyed.source
    if not present and not unfinished:
        return KeyState.UNKNOWN, "its file is not in the keystore"
    if life.compromised is not None:
        return KeyState.COMPROMISED, life.compromised.source
    if life.suspended is not None:
        return KeyState.SUSPENDED, life.suspended.source
    writing = [use for use in uses if use.new_data]
    if writing:
        return KeyState.ACTIVE, f"{writing[0].what} of {writing[0].cluster}"
    if life.active and life.activated is not None:
        return KeyState.ACTIVE, life.activated.source
    if life.deactivated is not None:
        return KeyState.DEACTIVATED, life.deactivated.source
    if uses:
        return KeyState.DEACTIVATED, f"{uses[0].what} of {uses[0].cluster}, only read"
    # The first keys of a keystore are made for clusters to be. The initdb of tde pg install-bin
    # uses them and tells nothing, so that the log is silent does not mean that they rest.
    is_first = owner.kind not in (OwnerKind.NAMED, OwnerKind.LATER_WAL)
    if life.is_told and life.activated is None and life.created is not None and not is_first:
        return KeyState.PRE_ACTIVATION, life.created.source
    return KeyState.UNKNOWN, "name the clusters with -D"


def _version(owner: KeyOwner, life: _Life, uses: Sequence[KeyUse]) -> int | None:
    if owner.kind is OwnerKind.WAL:
        return 1
    if owner.kind is OwnerKind.LATER_WAL:
        return owner.oid
    if owner.kind in (OwnerKind.TABLESPACE, OwnerKind.OTHER_TABLESPACES):
        return 1  # A rekey gives a tablespace a key with a name.
    return next((use.version for use in uses if use.version is not None), life.version)
