"""Which keys are older than their limit, or will be soon; what cannot be told does not pass."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from enum import Enum
from pathlib import Path
from typing import Any

from tde.keystore.lifecycle.states import KeyLife, KeyState, KeystoreLife, SecretLife
from tde.keystore.store.record import KeyOwner, OwnerKind

SOON = timedelta(days=30)
# A key that protects nothing new is no longer rotated, and one that was never used not yet.
_WATCHED = (KeyState.ACTIVE, KeyState.UNKNOWN, KeyState.SUSPENDED, KeyState.COMPROMISED)
_MARKED = (KeyState.SUSPENDED, KeyState.COMPROMISED)
_CLOCK = timedelta(minutes=5)  # Clocks of two machines that share a keystore differ a little.


class AgeVerdict(str, Enum):
    """What is said about the age of a key."""

    GOOD = "good"
    SOON = "soon"
    OVER = "over"
    UNKNOWN = "unknown"
    MARKED = "marked"


@dataclass(frozen=True)
class AgeFinding:
    """What is said about one key, the master key or the passphrase.

    Attributes:
        what: for people, such as ``key of the WAL, key 2`` or ``master key``.
        file: name of the key's file; ``None`` for the master key and the passphrase.
        max_age: its limit in days; ``None`` for a key in use that an officer has marked.
        since: when its age begins; ``None`` if nobody knows.
        due: when its limit is reached.
        detail: the finding in a sentence.
        remedy: the command that rotates it; empty where nothing is to be done.
    """

    what: str
    file: str | None
    verdict: AgeVerdict
    max_age: int | None
    since: datetime | None
    due: datetime | None
    detail: str
    remedy: str = ""

    def as_json(self) -> dict[str, Any]:
        """Return the finding as values that the json module can write."""
        return {
            "what": self.what,
            "file": self.file,
            "verdict": self.verdict.value,
            "max_age_days": self.max_age,
            "since": None if self.since is None else self.since.isoformat(),
            "due": None if self.due is None else self.due.isoformat(),
            "detail": self.detail,
            "remedy": self.remedy or None,
        }

    @property
    def needs_attention(self) -> bool:
        """Whether somebody should read it."""
        return self.verdict is not AgeVerdict.GOOD


def age_findings(life: KeystoreLife, now: datetime | None = None) -> list[AgeFinding]:
    """Return what is to be said about every key with a limit, and about marked keys in use.

    Args:
        now: the time of now in UTC; that of the machine's clock by default.
    """
    now = now or datetime.now(timezone.utc)
    findings = [
        _of_secret(secret, life, now)
        for secret in (life.master_key, life.passphrase)
        if secret.max_age is not None
    ]
    if life.problems:
        # Limits and marks may have gone with what was altered.
        findings.insert(0, _of_altered_log(life))
    has_looked = any(key.used_by for key in life.keys)
    for key in life.keys:
        # Tablespaces made in SQL may have been rekeyed: then nothing depends on this key any more.
        is_other = key.owner.kind is OwnerKind.OTHER_TABLESPACES
        if is_other and has_looked and not key.used_by:
            continue
        if key.present and key.state in _WATCHED:
            if key.state in _MARKED and _is_in_use(key):
                findings.append(_of_marked(key))
            elif key.max_age is not None:
                findings.append(_of_key(key, life, now))
    return findings


def _of_altered_log(life: KeystoreLife) -> AgeFinding:
    detail = f"the key log was altered, so ages and limits may be wrong: {life.problems[0]}"
    remedy = f"tde keystore log --verify --keystore {life.path}; compare it with syslog."
    return AgeFinding("key log", "key.log", AgeVerdict.UNKNOWN, None, None, None, detail, remedy)


def clock_problem(life: KeystoreLife, now: datetime) -> str:
    """Return what is wrong with the clock; empty when nothing is.

    A clock that was set back makes every key look younger than it is.
    """
    if life.newest is None or now + _CLOCK >= life.newest:
        return ""
    return (
        f"the clock of this machine ({now:%Y-%m-%d %H:%M} UTC) is behind the newest entry of the "
        f"key log ({life.newest:%Y-%m-%d %H:%M} UTC), so ages cannot be told"
    )


def rotation_of(owner: KeyOwner, oid: int | None = None, cluster: Path | None = None) -> str:
    """Return the command that gives what a key protects another one.

    Args:
        oid: of the tablespace, where it is known.
        cluster: its data directory, where that is known.
    """
    directory = "DIR" if cluster is None else shlex.quote(str(cluster))
    if owner.kind in (OwnerKind.WAL, OwnerKind.LATER_WAL):
        return f"tde wal rotate -D {directory}"
    if owner.kind is OwnerKind.OTHER_TABLESPACES:
        return (
            f"tde tablespace rekey --all -D {directory} gives the tablespaces that were made in "
            "SQL keys of their own. This key stays, for those that are made later: create them "
            "with tde tablespace create, then tde keystore max-age other none"
        )
    oid = oid or owner.oid or None
    return f"tde tablespace rekey {'NAME' if oid is None else oid} -D {directory}"


def _is_in_use(key: KeyLife) -> bool:
    """Tell whether a marked key still protects what is new, as far as that is known."""
    if any(use.new_data for use in key.used_by):
        return True
    return not key.used_by and key.activated is not None and key.deactivated is None


def _of_marked(key: KeyLife) -> AgeFinding:
    assert key.state is not None  # One that is marked has a state.
    detail = f"the key of {key.owner} is marked as {key.state.value} and still in use"
    why = f": {key.reason}" if key.reason else ""
    remedy = _rotation_of(key)
    name = key.owner.file_name
    return AgeFinding(
        f"key of {key.owner}", name, AgeVerdict.MARKED, None, key.since, None, detail + why, remedy
    )


def _rotation_of(key: KeyLife) -> str:
    writing = [use for use in key.used_by if use.new_data]
    if not writing:
        return rotation_of(key.owner)
    return rotation_of(key.owner, writing[0].oid, writing[0].cluster)


def _of_key(key: KeyLife, life: KeystoreLife, now: datetime) -> AgeFinding:
    created = "" if key.created is None else key.created.source
    return _judge(
        f"key of {key.owner}",
        key.owner.file_name,
        key.max_age or 0,
        key.since,
        f"nobody knows when it was made ({created})",
        _rotation_of(key),
        life,
        now,
    )


def _of_secret(secret: SecretLife, life: KeystoreLife, now: datetime) -> AgeFinding:
    verb = "rotate" if secret is life.master_key else "passphrase"
    return _judge(
        secret.name,
        None,
        secret.max_age or 0,
        secret.since.time,
        secret.since.source,
        f"tde keystore {verb} --keystore {life.path}",
        life,
        now,
    )


def _judge(
    what: str,
    file: str | None,
    max_age: int,
    since: datetime | None,
    why_unknown: str,
    remedy: str,
    life: KeystoreLife,
    now: datetime,
) -> AgeFinding:
    def found(verdict: AgeVerdict, detail: str, todo: str = "") -> AgeFinding:
        due = None if since is None else since + timedelta(days=max_age)
        return AgeFinding(what, file, verdict, max_age, since, due, f"the {what} {detail}", todo)

    if since is None:
        return found(
            AgeVerdict.UNKNOWN,
            f"may have reached its limit of {max_age} days: {why_unknown}",
            f"To begin anew: {remedy}",
        )
    if problem := clock_problem(life, now):
        return found(AgeVerdict.UNKNOWN, f"may have reached its limit: {problem}", "Set the clock.")
    due = since + timedelta(days=max_age)
    days = (now - since).days
    if now >= due:
        late = f"is {days} days old, and its limit of {max_age} was reached on {due:%Y-%m-%d}"
        return found(AgeVerdict.OVER, late, remedy)
    # A limit of a month would be near its end from its first day on.
    if now + min(SOON, timedelta(days=max_age) / 2) >= due:
        soon = f"is {days} days old, and reaches its limit of {max_age} on {due:%Y-%m-%d}"
        return found(AgeVerdict.SOON, soon, remedy)
    return found(AgeVerdict.GOOD, f"is {days} days old, of {max_age} at most")
