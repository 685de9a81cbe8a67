"""The lives of a keystore's keys together with what its clusters do with them now."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from tde.errors import TdeError
from tde.postgres.cluster.cluster import Cluster
from tde.postgres.cluster.key_uses import ClusterLook, look_at_cluster, tablespace_label
from tde.postgres.server.counters import IoCounters, io_counters
from tde.postgres.tablespace.tablespaces import run_query

if TYPE_CHECKING:
    from tde.algorithms import Algorithm
    from tde.keystore import KeyOwner, Keystore, KeystoreLife, KeyUse


@dataclass(frozen=True)
class KeySurvey:
    """What is known of the keys of a keystore.

    Attributes:
        life: of each key.
        clusters: what was looked at.
        counters: by data directory, what its running server has encrypted since its start, with all
            keys together.
    """

    life: KeystoreLife
    clusters: tuple[ClusterLook, ...]
    counters: Mapping[Path, IoCounters]


def survey_keys(
    keystore: Keystore,
    clusters: Iterable[Path] = (),
    *,
    records: Mapping[KeyOwner, Algorithm | None] | None = None,
) -> KeySurvey:
    """Return the lives of all keys; the log is told of keys that clusters no longer use.

    Args:
        clusters: data directories to look at, with the sizes of their files.
        records: as for :func:`tde.keystore.read_lives`.

    Raises:
        TdeError: a cluster cannot be looked at; see
            :func:`tde.postgres.cluster.key_uses.look_at_cluster`.
        KeystoreError: the keystore cannot be used.
    """
    from tde.keystore import read_lives

    looks = tuple(look_at_cluster(one, keystore.path, keystore, sizes=True) for one in clusters)
    uses: list[KeyUse] = []
    for look in looks:
        names = _names_of_tablespaces(look)
        _tell_of_unused(keystore, look, names)
        uses += _with_names(look, names)
    life = read_lives(keystore.path, keystore, records=records, uses=uses)
    counters = {
        look.directory: found
        for look in looks
        if look.pid is not None and (found := io_counters(look.pid)) is not None
    }
    return KeySurvey(life, looks, counters)


def _tell_of_unused(
    keystore: Keystore, look: ClusterLook, existing: Mapping[int, str] | None
) -> None:
    """Tell of keys that the cluster was told to encrypt with, and whose tablespace is gone.

    Args:
        existing: of :func:`_names_of_tablespaces`.
    """
    from tde.keystore.lifecycle.events import deactivate_keys, told_active
    from tde.keystore.store.names import owner_of_file

    writing = {use.owner for use in look.uses if use.new_data}
    named = {entry.owner for entry in look.keymap.history if not entry.source.is_of_wal}
    named |= {use.owner for use in look.uses}
    told = {owner_of_file(name): use for name, use in told_active(keystore, look.place).items()}
    # Of an earlier release the log knows only what is told now.
    for oid, entry in look.keymap.entries.items():
        if oid not in look.linked:
            told.setdefault(entry.owner, tablespace_label(oid))
    reasons: dict[KeyOwner, str] = {}
    for owner, use in told.items():
        # One that the map does not know is about to be used, or is that of tablespaces to come.
        if owner is None or owner not in named or owner in writing:
            continue
        # A link may only be away: what was dropped, the server says.
        unlinked = look.unlinked_of(owner)
        if unlinked and (existing is None or existing.keys() & unlinked):
            continue
        reasons[owner] = f"a look at the cluster found that {use} has another key or is gone"
    deactivate_keys(keystore, reasons, look.place)


def _names_of_tablespaces(look: ClusterLook) -> dict[int, str] | None:
    """Return the tablespaces that the server knows, by OID; ``None`` without an answer."""
    if look.pid is None:
        return None
    with suppress(TdeError):
        parameters = Cluster(look.directory).connection_parameters()
        rows = run_query(parameters, "SELECT oid, spcname FROM pg_catalog.pg_tablespace")
        return {int(oid): str(name) for oid, name in rows}
    return None


def _with_names(look: ClusterLook, names: Mapping[int, str] | None) -> list[KeyUse]:
    """Return the uses with the names of tablespaces; without an answer, OIDs say the same."""
    known = names or {}
    return [
        replace(use, what=f"tablespace {use.oid} ({known[use.oid]})")
        if use.oid is not None and use.oid in known
        else use
        for use in look.uses
    ]
