"""Age limits of keys: the last one that covers a key counts."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from tde.keystore.lifecycle.events import LIMIT, OF_ALL, OF_MASTER, OF_PASSPHRASE, OF_WAL
from tde.keystore.log.entry import LogEntry
from tde.keystore.store.record import KeyOwner, OwnerKind

LONGEST_LIMIT = 36_500
"""Days."""


@dataclass(frozen=True)
class AgeLimits:
    """The limits in days that the log tells of, in their order."""

    settings: tuple[tuple[str, int | None], ...] = ()
    _of_keys: dict[str, int | None] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        # A limit for all takes the place of those before it, and so does one for WAL.
        for what, days in self.settings:
            if what == OF_ALL:
                self._of_keys.clear()
            self._of_keys[what] = days

    def of_key(self, owner: KeyOwner) -> int | None:
        """Return the limit of a key in days; ``None`` without one."""
        if not self._of_keys:
            return None
        is_wal = owner.kind in (OwnerKind.WAL, OwnerKind.LATER_WAL)
        return self._first(owner.file_name, *([OF_WAL] if is_wal else ()), OF_ALL)

    @property
    def of_master_key(self) -> int | None:
        """The limit of the master key in days; ``None`` without one."""
        return self._first(OF_MASTER, OF_ALL)

    @property
    def of_passphrase(self) -> int | None:
        """The limit of the passphrase in days; ``None`` without one."""
        return self._first(OF_PASSPHRASE, OF_ALL)

    def _first(self, *names: str) -> int | None:
        return next((self._of_keys[name] for name in names if name in self._of_keys), None)


def limits_of(entries: Iterable[LogEntry]) -> AgeLimits:
    """Return the limits that the entries of a log set; what has no such form is passed over."""
    found = []
    for entry in entries:
        if entry.event != LIMIT:
            continue
        what, days = entry.details.get("of"), entry.details.get("days")
        if isinstance(what, str) and (days is None or type(days) is int):
            found.append((what, days))
    return AgeLimits(tuple(found))
