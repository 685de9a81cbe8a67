"""The keystore in a report: ways to open it, every key, and the key log."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime

from tde.keystore import (
    AgeFinding,
    AgeVerdict,
    KeyInfo,
    KeyLife,
    Keystore as OpenKeystore,
    KeystoreLife,
    KeystoreStatus,
    LogEntry,
    OwnerKind,
    SecretLife,
    age_findings,
    inspect_keystore,
    list_keys,
    list_providers,
    read_key_log,
    read_lives,
)
from tde.keystore.auto_opening import ways_to_open
from tde.keystore.lifecycle.fold import author_of
from tde.postgres.cluster.cluster import Cluster
from tde.postgres.cluster.key_uses import look_at_cluster
from tde.postgres.facts import BUILT_IN_TABLESPACES
from tde.report.model import Key, KeyLog, Keystore, LogLine, Secret, WayToOpen

_TOO_OLD = (AgeVerdict.OVER, AgeVerdict.UNKNOWN, AgeVerdict.MARKED)
_LAST = 20  # Entries of the key log.
_OPENED, _FAILED = "open keystore", "fail to open keystore"
_HIDDEN = ("keystore", "sealed", "sha256")


def keystore_facts(keystore: OpenKeystore, life: KeystoreLife) -> Keystore:
    """Return what the keystore says of itself.

    Raises:
        KeystoreError: it cannot be looked at.
    """
    status = inspect_keystore(keystore.path)
    return Keystore(
        status.path,
        status.uuid,
        status.created,
        status.master_key_id,
        (_secret(life.master_key), _secret(life.passphrase)),
        status.rotation_unfinished,
        tuple(_ways(status)),
    )


def _ways(status: KeystoreStatus) -> Iterator[WayToOpen]:
    kdf = status.kdf
    yield WayToOpen(
        "passphrase",
        f"Argon2id, {kdf.memory_kib // 1024} MiB, {kdf.iterations} iterations, {kdf.lanes} lanes",
        "a thief of the keystore has to guess the passphrase, at that cost each time",
    )
    for way in ways_to_open(status.path):
        yield WayToOpen(
            f"by itself: {way.name or 'auto-open.key'}",
            way.in_words,
            f"a thief of the disk {way.thieves.disk}; of a backup of the keystore "
            f"{way.thieves.backup}; of the running machine {way.thieves.machine}",
        )
    for info in list_providers(status.path):
        if info.header is None or not info.is_current:
            yield WayToOpen(info.name, info.problem or "it has another master key", "–")
        elif not info.header.unattended:
            facts = " ".join(f"{name}={value}" for name, value in info.header.parameters.items())
            yield WayToOpen(
                f"provider {info.name}",
                f"{info.header.type} {facts}".strip(),
                "a thief of the keystore needs what this provider asks for as well",
            )


def _secret(life: SecretLife) -> Secret:
    limit = "" if life.max_age is None else f"{life.max_age} days"
    return Secret(life.name, life.since.time, life.changes, limit)


def life_of(keystore: OpenKeystore, cluster: Cluster) -> KeystoreLife:
    """Return the lives of the keys of a keystore, with what a cluster does with them now.

    Raises:
        KeystoreError: a file of the keystore cannot be used.
        TdeError, OSError: the cluster cannot be looked at.
    """
    look = look_at_cluster(cluster.data_directory, keystore.path, keystore, sizes=True)
    return read_lives(keystore.path, keystore, uses=look.uses)


def key_rows(keystore: OpenKeystore, life: KeystoreLife, now: datetime) -> tuple[Key, ...]:
    """Return every key of the keystore, those that were destroyed included.

    Args:
        now: when ages are told.

    Raises:
        KeystoreError: the directory of the keys cannot be read.
    """
    opened = {info.owner: info for info in list_keys(keystore)}
    ages = {finding.file: finding for finding in age_findings(life, now)}
    return tuple(
        _row(key, opened.get(key.owner), ages.get(key.owner.file_name), now) for key in life.keys
    )


def _row(key: KeyLife, info: KeyInfo | None, age: AgeFinding | None, now: datetime) -> Key:
    name = BUILT_IN_TABLESPACES.get(key.owner.oid)
    is_wal = key.owner.kind is OwnerKind.LATER_WAL
    age_now = key.age(now)
    return Key(
        file=key.owner.file_name,
        owner=f"{key.owner} ({name})" if name and not is_wal else str(key.owner),
        algorithm="" if key.algorithm is None else key.algorithm.label,
        state="" if key.state is None else key.state.value,
        state_source=key.state_source,
        used_for=", ".join(use.what for use in key.used_by),
        bytes=sum(use.bytes or 0 for use in key.used_by) if key.used_by else None,
        present=key.present,
        created=None if key.created is None else key.created.time,
        activated=None if key.activated is None else key.activated.time,
        age_days=None if age_now is None else age_now.days,
        limit_days=key.max_age,
        age_problem=age.detail if age is not None and age.verdict in _TOO_OLD else "",
        age_remedy="" if age is None else age.remedy,
        problem="" if info is None else info.problem,
        remedy="" if info is None else info.remedy,
    )


def secret_problems(life: KeystoreLife, now: datetime) -> tuple[tuple[str, str], ...]:
    """Return what is wrong with the age of the master key and the passphrase, and what to do."""
    return tuple(
        (finding.detail, finding.remedy)
        for finding in age_findings(life, now)
        if finding.file is None and finding.verdict in _TOO_OLD
    )


def key_log(keystore: OpenKeystore) -> KeyLog:
    """Return the key log as a report shows it.

    Raises:
        KeystoreError: it cannot be read.
    """
    found = read_key_log(keystore.path, keystore.log_author())
    # What counts for nothing is named among the problems.
    entries = found.counting
    changes = [entry for entry in entries if entry.event not in (_OPENED, _FAILED)]
    return KeyLog(
        found.path,
        len(found.entries),
        found.confirmed or 0,
        found.begins_with_the_keystore,
        tuple(found.problems),
        sum(entry.event == _OPENED for entry in entries),
        tuple(_lines(changes)),
        tuple(_lines(entry for entry in entries if entry.event == _FAILED)),
        tuple(_lines(entries[-_LAST:])),
    )


def _lines(entries: Iterable[LogEntry]) -> Iterator[LogLine]:
    for entry in entries:
        yield LogLine(
            entry.number,
            entry.time,
            entry.event,
            author_of(entry),
            str(entry.who.get("host", "")),
            str(entry.who.get("command", "")),
            entry.details_in_words(_HIDDEN),
        )
