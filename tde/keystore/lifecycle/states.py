"""What is known of the life of a key, and the states that NIST SP 800-57 Part 1 rev. 5 names.

What there may be ten thousand of are named tuples: a frozen dataclass takes four times as long.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum
from pathlib import Path
from typing import NamedTuple

from tde.algorithms import Algorithm
from tde.keystore.lifecycle.limits import AgeLimits
from tde.keystore.store.record import KeyOwner


class KeyState(str, Enum):
    """The states of SP 800-57, section 7, and one for what nobody has written down."""

    PRE_ACTIVATION = "pre-activation"
    ACTIVE = "active"
    SUSPENDED = "suspended"
    DEACTIVATED = "deactivated"
    COMPROMISED = "compromised"
    DESTROYED = "destroyed"
    DESTROYED_COMPROMISED = "destroyed compromised"
    UNKNOWN = "unknown"

    @property
    def is_destroyed(self) -> bool:
        """Whether the key is gone."""
        return self in (KeyState.DESTROYED, KeyState.DESTROYED_COMPROMISED)


class Fact(NamedTuple):
    """When something happened to a key.

    Attributes:
        time: in UTC; ``None`` when nobody knows, and then the source says why.
        source: where that is known from, for people: an entry of the key log, or a look at a
            cluster.
        entry: number of the entry in the key log; ``None`` when it is from elsewhere.
        who: who did it, as the entry says; empty when nobody knows.
    """

    time: datetime | None
    source: str
    entry: int | None = None
    who: str = ""


def put_back_problem(owner: KeyOwner, entry: int | None) -> str:
    """Return what is wrong with a record that is there although the log tells of its destruction.

    Args:
        entry: number of the entry that tells that it is gone.
    """
    return (
        f"keys/{owner.file_name} is there, and entry {entry} of the key log tells that the key is "
        "destroyed: somebody has put it back"
    )


@dataclass(frozen=True)
class KeyUse:
    """What a cluster does with a key, as its key map and its files say now.

    Attributes:
        cluster: its data directory.
        what: for people, such as ``tablespace 16400``, its name if that is known, or ``WAL``.
        new_data: whether what is written now is encrypted with it; otherwise it is only read.
        is_derived: whether the tablespace was made in SQL: its key is derived from this one.
        version: which one of the keys of this tablespace, or of WAL, it is in this cluster; from 1.
        bytes: size on the disk of what is encrypted with it; ``None`` when that was not measured.
        segments: names of the WAL segments in pg_wal that are encrypted with it.
        oid: of the tablespace; ``None`` for WAL.
    """

    owner: KeyOwner
    cluster: Path
    what: str
    new_data: bool
    is_derived: bool = False
    version: int | None = None
    bytes: int | None = None
    segments: tuple[str, ...] = ()
    oid: int | None = None


class LifeEvent(NamedTuple):
    """One line of the history of a key."""

    time: datetime
    event: str
    detail: str
    who: str
    entry: int


class KeyLife(NamedTuple):
    """The life of one key, or of a plaintext entry, which is none.

    Attributes:
        owner: whose key it is; the name of its file is its id.
        algorithm: ``None`` for a plaintext entry.
        state: ``None`` for a plaintext entry.
        state_source: what the state is known from, for people.
        present: whether its record is in the keystore.
        version: which one of the keys of its tablespace, or of WAL; ``None`` when nobody knows.
        created, activated, deactivated, suspended, compromised, destroyed: ``None`` when it did
            not happen; a fact without a time when it did and nobody knows when.
        reason: what the officer who marked it has said.
        max_age: its age limit in days; ``None`` without one.
        purposes: what it was told to protect, the latest last, such as ``tablespace 16400``.
        used_by: what the clusters that were looked at do with it.
        unfinished: whether its destruction was begun and not finished.
        put_back: its destruction, when that was finished and its record is there again.
        events: what the log tells of it, the oldest first.
    """

    owner: KeyOwner
    algorithm: Algorithm | None
    state: KeyState | None
    state_source: str
    present: bool
    version: int | None = None
    created: Fact | None = None
    activated: Fact | None = None
    deactivated: Fact | None = None
    suspended: Fact | None = None
    compromised: Fact | None = None
    destroyed: Fact | None = None
    reason: str = ""
    max_age: int | None = None
    purposes: tuple[str, ...] = ()
    used_by: tuple[KeyUse, ...] = ()
    unfinished: bool = False
    put_back: Fact | None = None
    events: tuple[LifeEvent, ...] = ()

    @property
    def key_id(self) -> str:
        """What names it on the command line: its file's name without the ending."""
        return self.owner.file_name.removesuffix(".key")

    @property
    def problem(self) -> str:
        """What is wrong with a record that should not be there; empty when nothing is."""
        return "" if self.put_back is None else put_back_problem(self.owner, self.put_back.entry)

    @property
    def since(self) -> datetime | None:
        """When its age begins: when it was activated, or created where that is not known.

        It was created before it was activated, so its age is never told too low.
        """
        for fact in (self.activated, self.created):
            if fact is not None and fact.time is not None:
                return fact.time
        return None

    def age(self, now: datetime) -> timedelta | None:
        """Return how old it is; negative where a clock went backwards, ``None`` if unknown."""
        return None if self.since is None else now - self.since


@dataclass(frozen=True)
class SecretLife:
    """The life of the master key, or of the passphrase.

    Attributes:
        name: ``master key`` or ``passphrase``.
        since: when the one of now was made.
        changes: how often the log tells that it was replaced.
    """

    name: str
    since: Fact
    changes: int
    max_age: int | None = None

    def age(self, now: datetime) -> timedelta | None:
        """Return how old it is; ``None`` if nobody knows."""
        return None if self.since.time is None else now - self.since.time


@dataclass(frozen=True)
class KnownPlace:
    """A cluster or a backup that the log tells of.

    Attributes:
        directory: the data directory, or the backup.
        is_backup: whether it was named as a backup.
        system_identifier: of the cluster; ``None`` before there is one.
        told: when, and by which entry.
        host: the name of the machine where that was told.
    """

    directory: Path
    is_backup: bool
    system_identifier: int | None
    told: Fact
    host: str


@dataclass(frozen=True)
class KeystoreLife:
    """The lives of all keys of a keystore.

    Attributes:
        keys: in the order of ``tde keystore list``; then those that are not there any more.
        places: clusters and backups that the log tells of, without those to be forgotten.
        newest: time of the newest entry of the log, which no clock should be behind.
        problems: what is wrong with the log; what is told here is then not to be trusted.
        proven: whether a code speaks for every entry that has one, checked with the master key.
        begins_with_the_keystore: whether the log tells of the keystore's creation.
    """

    path: Path
    keys: list[KeyLife]
    master_key: SecretLife
    passphrase: SecretLife
    limits: AgeLimits
    places: list[KnownPlace]
    newest: datetime | None
    problems: list[str]
    proven: bool
    begins_with_the_keystore: bool

    def find(self, file_name: str) -> KeyLife | None:
        """Return the life of the key with this file; ``None`` when nothing tells of it."""
        return next((key for key in self.keys if key.owner.file_name == file_name), None)
