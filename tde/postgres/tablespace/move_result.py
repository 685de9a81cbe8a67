"""What a move will do, what it has done, and what it has left."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from tde.postgres.tablespace.move_objects import Movable
from tde.postgres.tablespace.move_rest import NamedInSetting, Remaining
from tde.postgres.tablespace.move_schedule import Verdict


@dataclass(frozen=True)
class Moved:
    """An object that is in its new place."""

    movable: Movable
    seconds: float


@dataclass(frozen=True)
class Left:
    """An object that could be moved, and was not.

    Attributes:
        verdict: ``LOCKED``, ``FAILED``, ``FULL`` when the new place had no room for it, or
            ``STOPPED`` when its turn did not come.
        reason: of a lock, who holds it; of a failure, what the server says.
    """

    movable: Movable
    verdict: Verdict
    reason: tuple[str, ...] = ()


@dataclass(frozen=True)
class Leftover:
    """An invalid index that an interrupted REINDEX CONCURRENTLY has left."""

    database: str
    name: str

    @property
    def statement(self) -> str:
        """The SQL that removes it."""
        return f"DROP INDEX CONCURRENTLY {self.name}"


@dataclass(frozen=True)
class Rest:
    """What no session can move, and what keeps the tablespace in use.

    Attributes:
        unread: databases that could not be looked into, with the reason.
    """

    remaining: tuple[Remaining, ...] = ()
    leftovers: tuple[Leftover, ...] = ()
    settings: tuple[NamedInSetting, ...] = ()
    unread: Mapping[str, str] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Return the fields as values that the json module can write."""
        return {
            "remaining": [asdict(one) for one in self.remaining],
            "leftovers": [{**asdict(one), "statement": one.statement} for one in self.leftovers],
            "settings": [asdict(one) for one in self.settings],
            "unread": dict(self.unread),
        }


@dataclass(frozen=True)
class MovePlan:
    """What would be moved, in this order.

    Attributes:
        target: quoted name of the tablespace.
    """

    movables: tuple[Movable, ...]
    rest: Rest
    target: str

    def as_json(self) -> dict[str, Any]:
        """Return the fields as values that the json module can write."""
        planned = [
            {**_described(m), "lock": m.lock, "statement": m.statement(self.target)}
            for m in self.movables
        ]
        return {"dry_run": True, "planned": planned, **self.rest.as_json()}


@dataclass(frozen=True)
class MoveResult:
    """What was moved, and what is still in the tablespace.

    Attributes:
        seconds: how long it took.
        interrupted: whether it was told to stop.
        droppable: whether nothing is left in the tablespace, so that it can be dropped.
        statement: the SQL that drops it.
        key_file: in the keystore's ``keys``, which stays; ``None`` for one in plaintext.
    """

    moved: tuple[Moved, ...]
    left: tuple[Left, ...]
    rest: Rest
    seconds: float
    interrupted: bool
    droppable: bool
    statement: str
    key_file: str | None

    @property
    def bytes(self) -> int:
        """How many bytes have found a new place."""
        return sum(one.movable.bytes for one in self.moved)

    @property
    def complete(self) -> bool:
        """Whether all was moved that a session can move."""
        return not (self.left or self.rest.leftovers or self.rest.unread or self.interrupted)

    def as_json(self) -> dict[str, Any]:
        """Return the fields as values that the json module can write."""
        return {
            "dry_run": False,
            "complete": self.complete,
            "interrupted": self.interrupted,
            "droppable": self.droppable,
            "key_file": self.key_file,
            "bytes": self.bytes,
            "seconds": round(self.seconds, 3),
            "moved": [
                {**_described(one.movable), "seconds": round(one.seconds, 3)} for one in self.moved
            ],
            "left": [
                {**_described(one.movable), "why": one.verdict.value, "reason": list(one.reason)}
                for one in self.left
            ],
            **self.rest.as_json(),
        }


def _described(movable: Movable) -> dict[str, Any]:
    return {
        "database": movable.database,
        "kind": movable.kind.value,
        "name": movable.name,
        "bytes": movable.bytes,
    }
