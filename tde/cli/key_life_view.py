"""What commands show of the life of keys, for people and for programs."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from tde.console.output import error_console

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from tde.algorithms import Algorithm
    from tde.keystore import (
        Fact,
        KeyLife,
        KeyOwner,
        Keystore,
        KeystoreLife,
        KeyUse,
        SecretLife,
    )
    from tde.postgres.cluster.key_uses import ClusterLook
    from tde.postgres.server.counters import IoCounters

_BYTES = ("bytes", "KiB", "MiB", "GiB", "TiB", "PiB")


@contextmanager
def without_collector() -> Iterator[None]:
    """Keep Python from looking for cycles among thousands of small objects, which have none.

    It would take a third of the time of a list of ten thousand keys.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def say_what_is_wrong_with_the_log(life: KeystoreLife) -> None:
    """Say it when what is told of keys cannot be trusted, or not to its beginning."""
    for problem in life.problems[:1]:
        error_console.print(
            f"The key log was altered, so states and times may be wrong: {problem}",
            style="red",
            markup=False,
            soft_wrap=True,
        )
    if not life.begins_with_the_keystore:
        error_console.print(
            "The key log does not begin with the keystore: what happened before is unknown.",
            soft_wrap=True,
        )


def use_text(use: KeyUse) -> str:
    """Return one line about what a cluster does with a key."""
    derived = ", made in SQL" if use.is_derived else ""
    read = "" if use.new_data else ", only read"
    size = "" if use.bytes is None else f", {size_text(use.bytes)} on disk"
    ranges = f", segments {_ranges(use.segments)}" if use.segments else ""
    return f"{use.what}{derived} of {use.cluster}{read}{size}{ranges}"


def _ranges(segments: tuple[str, ...]) -> str:
    if len(segments) == 1:
        return segments[0]
    return f"{segments[0]} to {segments[-1]} ({len(segments)})"


def size_text(size: float) -> str:
    """Return a number of bytes in a unit that people read."""
    unit = 0
    while size >= 1024 and unit < len(_BYTES) - 1:
        size, unit = size / 1024, unit + 1
    return f"{size:.0f} {_BYTES[unit]}" if unit == 0 else f"{size:.1f} {_BYTES[unit]}"


def age_text(key: KeyLife, now: datetime | None = None) -> str:
    """Return the age of a key in days; ``?`` when nobody knows."""
    age = key.age(now or datetime.now(timezone.utc))
    return "?" if age is None or age.total_seconds() < 0 else f"{age.days} d"


def lives_of_keys(
    opened: Keystore,
    clusters: list[Path],
    records: Mapping[KeyOwner, Algorithm | None] | None = None,
) -> tuple[KeystoreLife, list[dict[str, Any]]]:
    """Return the lives of all keys, and what was found of clusters, for JSON.

    Args:
        clusters: data directories to look at.
        records: as for :func:`tde.keystore.read_lives`.

    Raises:
        TdeError: as :func:`tde.postgres.survey_keys`.
    """
    if not clusters:
        # What looks at clusters takes as long to load as thousands of keys to read.
        from tde.keystore import read_lives

        return read_lives(opened.path, opened, records=records), []
    from tde.postgres import survey_keys

    survey = survey_keys(opened, clusters, records=records)
    return survey.life, [cluster_document(look, survey.counters) for look in survey.clusters]


def life_document(life: KeystoreLife) -> dict[str, Any]:
    """Return all that is known of keys as values that the json module can write."""
    return {
        "path": str(life.path),
        "log": {
            "problems": life.problems,
            "proven": life.proven,
            "begins_with_the_keystore": life.begins_with_the_keystore,
        },
        "master_key": _secret_document(life.master_key),
        "passphrase": _secret_document(life.passphrase),
        "clusters": [
            {
                "directory": str(place.directory),
                "is_backup": place.is_backup,
                "system_identifier": place.system_identifier,
                "host": place.host,
                "told": _fact_document(place.told),
            }
            for place in life.places
        ],
        "keys": [key_document(key) for key in life.keys],
    }


def key_document(key: KeyLife) -> dict[str, Any]:
    """Return the life of one key as values that the json module can write."""
    facts = ("created", "activated", "deactivated", "suspended", "compromised", "destroyed")
    now = datetime.now(timezone.utc)
    age = key.age(now)
    return {
        "key": key.key_id,
        "version": key.version,
        "state": None if key.state is None else key.state.value,
        "state_source": key.state_source or None,
        "present": key.present,
        "destruction_unfinished": key.unfinished,
        "put_back_after_destruction": key.put_back is not None,
        **{name: _fact_document(getattr(key, name)) for name in facts},
        "reason": key.reason or None,
        "age_days": None if age is None else age.days,
        "max_age_days": key.max_age,
        "purposes": list(key.purposes),
        "used_by": [_use_document(use) for use in key.used_by],
        "events": [
            {
                "entry": event.entry,
                "time": event.time.isoformat(),
                "event": event.event,
                "detail": event.detail or None,
                "who": event.who,
            }
            for event in key.events
        ],
    }


def _secret_document(secret: SecretLife) -> dict[str, Any]:
    return {
        "since": _fact_document(secret.since),
        "changes": secret.changes,
        "max_age_days": secret.max_age,
    }


def _use_document(use: KeyUse) -> dict[str, Any]:
    return {
        "cluster": str(use.cluster),
        "what": use.what,
        "oid": use.oid,
        "new_data": use.new_data,
        "derived": use.is_derived,
        "version": use.version,
        "bytes": use.bytes,
        "segments": list(use.segments),
    }


def _fact_document(fact: Fact | None) -> dict[str, Any] | None:
    if fact is None:
        return None
    time = None if fact.time is None else fact.time.isoformat()
    return {"time": time, "source": fact.source, "entry": fact.entry, "who": fact.who or None}


def cluster_document(look: ClusterLook, counters: Mapping[Path, IoCounters]) -> dict[str, Any]:
    """Return what is known of a cluster that was looked at.

    The counters are those of its server since its start, with all keys together.
    """
    found = counters.get(look.directory)
    return {
        "directory": str(look.directory),
        "system_identifier": look.system_identifier,
        "server": look.pid,
        "since_start": None if found is None else asdict(found),
    }
