"""Destroying a key that no cluster and no backup needs.

Every place that the key log knows must be looked at now, and so are those that are named. A key of
WAL that a stopped cluster names for old segments, of which none is left, is dropped from its map:
otherwise its next start would miss it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from socket import gethostname
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from tde.errors import ClusterKeystoreError, DataDirectoryError, KeystoreError, TdeError
from tde.file_rights import own_file_rights
from tde.page.codec import PageCipher
from tde.postgres.cluster.key_recovery import require_known_servers, require_no_recovery
from tde.postgres.cluster.key_uses import ClusterLook, look_at_cluster
from tde.postgres.cluster.keymap import write_map
from tde.postgres.cluster.lock import cluster_lock
from tde.postgres.cluster.wal_segments import cipher_of_wal, look_at_archive
from tde.postgres.server.os_user import server_os_user

if TYPE_CHECKING:
    from tde.keystore import KeyLife, KeyOwner, Keystore

_MOST_NAMED = 3


@dataclass(frozen=True)
class Place:
    """A directory that may need the key.

    Attributes:
        is_backup: a backup, whose map stays as it is.
        is_known: whether the key log told of it, and not the caller.
        system_identifier: of the cluster that the log tells of; ``None`` where it has none.
        host: the machine that has told of it; ``None`` for what the caller names on this one.
    """

    directory: Path
    is_backup: bool
    is_known: bool
    system_identifier: int | None = None
    host: str | None = None


def find_destroyable(keystore: Keystore, name: str) -> KeyLife:
    """Return the key that somebody wants to destroy.

    Raises:
        KeyMissingError: there is none with this name.
        KeystoreError: it is one that a keystore cannot be without.
    """
    from tde.keystore import read_lives
    from tde.keystore.lifecycle.changes import find_key
    from tde.keystore.lifecycle.destruction import require_destroyable

    key = find_key(read_lives(keystore.path, keystore), name)
    require_destroyable(key.owner)
    return key


def places_to_look_at(
    keystore: Keystore, clusters: Iterable[Path], backups: Iterable[Path]
) -> list[Place]:
    """Return the places that the key log knows, then those that are named besides.

    Raises:
        KeystoreDamagedError: the key log was altered: places may have gone from it.
    """
    from tde.keystore.lifecycle.lives import known_places
    from tde.keystore.log.reading import proven_entries

    places = [
        Place(one.directory, one.is_backup, True, one.system_identifier, one.host)
        for one in known_places(proven_entries(keystore.path, keystore.log_author()))
    ]
    directories = {one.directory for one in places}
    for named, is_backup in ((clusters, False), (backups, True)):
        for path in map(Path.absolute, named):
            if path not in directories:
                directories.add(path)
                places.append(Place(path, is_backup, False))
    return places


def require_unneeded(
    keystore: Keystore,
    owner: KeyOwner,
    places: Iterable[Place],
    archives: Iterable[Path],
    *,
    no_cluster: bool = False,
    ciphers: Mapping[KeyOwner, PageCipher] = MappingProxyType({}),
) -> list[ClusterLook]:
    """Look at all places, and refuse when one needs a key.

    Args:
        ciphers: that of the key, when its record has lost its name and it is one of WAL.
        no_cluster: somebody says that the keystore serves no cluster any more.

    Returns:
        Stopped clusters whose map names the key for WAL that is gone.

    Raises:
        ClusterKeystoreError: a place needs it, or cannot be looked at.
    """
    to_change = []
    places = list(places)
    _require_here(places)
    looks = [(place, _look(keystore, place)) for place in places]
    clusters = [one.directory for one in places if not one.is_backup]
    require_known_servers(keystore, clusters, may_be_none=no_cluster)
    for place, look in looks:
        _require_same_cluster(place, look)
        _require_unused(place, look, owner)
        _require_told_unused(keystore, place, look, owner)
        if not place.is_backup and look.pid is None:
            require_no_recovery(place.directory, owner)
        # The map is asked, because the record may have lost its name by now.
        if _names_for_wal(look, owner) and not place.is_backup:
            to_change.append(look)
    for archive in archives:
        _require_not_in_archive(keystore, owner, archive, ciphers)
    return to_change


def destroy_unneeded_key(
    keystore: Keystore,
    owner: KeyOwner,
    places: Sequence[Place],
    archives: Sequence[Path] = (),
    *,
    reason: str = "",
    no_cluster: bool = False,
) -> dict[str, Any]:
    """Destroy a key that no place needs, and return the receipt.

    Raises:
        ClusterKeystoreError: a place needs it, or cannot be looked at.
        ClusterBusyError: another command works on a cluster.
        KeystoreError: as :func:`tde.keystore.lifecycle.destruction.destroy_key`.
    """
    from tde.keystore import OwnerKind
    from tde.keystore.lifecycle.destruction import begin_again, destroy_key

    with ExitStack() as stack:
        clusters = dict.fromkeys(place.directory for place in places if not place.is_backup)
        for directory in clusters:
            if directory.is_dir():
                # Nobody starts a server, rotates or rekeys meanwhile.
                stack.enter_context(cluster_lock(directory))
        if not begin_again(keystore, owner):
            # What is there of it is overwritten already, or it is gone: nobody can need it.
            return destroy_key(keystore, owner, reason=reason)
        require_unneeded(keystore, owner, places, archives, no_cluster=no_cluster)
        ciphers = {}
        if owner.kind is OwnerKind.LATER_WAL:
            ciphers[owner] = stack.enter_context(cipher_of_wal(keystore, owner))

        def look_again() -> None:
            # The keystore is locked now, with its owner's rights for files; backups and archives
            # may be somebody else's.
            with own_file_rights():
                looks = require_unneeded(
                    keystore, owner, places, archives, no_cluster=no_cluster, ciphers=ciphers
                )
            for look in looks:
                _drop_from_map(keystore, owner, look)

        looked_at = [str(place.directory) for place in places] + [str(one) for one in archives]
        return destroy_key(
            keystore, owner, reason=reason, looked_at=looked_at, look_again=look_again
        )


def _look(keystore: Keystore, place: Place) -> ClusterLook:
    try:
        return look_at_cluster(place.directory, keystore.path, keystore)
    except (TdeError, OSError) as error:
        known = (
            f"The key log of {keystore.path} tells of it. If it is gone for good, or is no longer "
            f"a cluster of this keystore: tde keystore forget-cluster {place.directory}. Otherwise "
            "mount or repair it, and repeat the command. "
        )
        raise ClusterKeystoreError(
            f"whether {place.directory} needs the key cannot be told: {error}",
            remedy=(known if place.is_known else "") + getattr(error, "remedy", ""),
        ) from error


def _require_here(places: Iterable[Place]) -> None:
    """Refuse what cannot be looked at from this machine: its paths lead to other files here.

    Raises:
        ClusterKeystoreError: the log tells of a place on another machine.
    """
    here = gethostname()
    for place in places:
        if place.host is not None and place.host != here:
            raise ClusterKeystoreError(
                f"whether {place.directory} on the host {place.host} needs the key cannot be told: "
                f"this is {here}, and the key log tells of that one",
                remedy="If it is gone for good, has a keystore of its own, or this machine had "
                f"that name before: {_forget_and_name(place)}",
            )


def _require_same_cluster(place: Place, look: ClusterLook) -> None:
    """Refuse when another cluster has come to the directory of one that the log knows.

    Raises:
        ClusterKeystoreError: the one that the log tells of is somewhere else, or gone.
    """
    known = place.system_identifier
    if known is not None and known != look.system_identifier:
        raise ClusterKeystoreError(
            f"whether the cluster with the system identifier {known} needs the key cannot be "
            f"told: the key log tells that it was at {place.directory}, and there is the one with "
            f"{look.system_identifier} now",
            remedy="If it was moved, name it with -D or --backup where it is now. When that is "
            f"done, or it is gone for good: {_forget_and_name(place)}",
        )


def _forget_and_name(place: Place) -> str:
    option = "--backup" if place.is_backup else "-D"
    return (
        f"tde keystore forget-cluster {place.directory}, then repeat the command with {option} "
        f"{place.directory} for what is there on this machine."
    )


def _require_unused(place: Place, look: ClusterLook, owner: KeyOwner) -> None:
    """Refuse a key that is written with, that stored data has, or that a server has in memory."""
    from tde.keystore.lifecycle.ages import rotation_of

    where = f"the {'backup' if place.is_backup else 'cluster'} {look.directory}"
    for use in look.uses_of(owner):
        if use.new_data:
            rotate = f"Give what it protects another key first: {rotation_of(owner, use.oid)}"
            raise _needed(owner, f"{where} encrypts {use.what} with it", _remedy_of(place, rotate))
        if use.segments:
            shown = ", ".join(use.segments[:_MOST_NAMED])
            raise _needed(
                owner,
                f"{where} has {len(use.segments)} WAL segments with it in pg_wal: {shown}",
                _remedy_of(
                    place,
                    "Wait until the server has removed them (CHECKPOINT, archiver, "
                    "replication slots).",
                ),
            )
    if look.keymap.wal_keys and look.keymap.wal_keys[-1] == owner.key_id:
        raise _needed(owner, f"{where} writes WAL with it", _remedy_of(place))
    if place.is_backup and _names_for_wal(look, owner):
        raise _needed(owner, f"the key map of {where} names it for WAL", _remedy_of(place))
    is_named = any(entry.key_id == owner.key_id for entry in look.keymap.history)
    if is_named and look.pid is not None and not place.is_backup:
        raise _needed(
            owner,
            f"the key map of {where} names it, and its server (process id {look.pid}) has it in "
            "memory",
            "Stop the server, repeat the command, and start it again.",
        )


def _require_told_unused(
    keystore: Keystore, place: Place, look: ClusterLook, owner: KeyOwner
) -> None:
    """Refuse what map and files alone do not tell: a map may be old, and a link only be away.

    Raises:
        ClusterKeystoreError: the log does not tell that the place has ended the use of the key.
    """
    from tde.keystore.lifecycle import events

    where = f"the {'backup' if place.is_backup else 'cluster'} {look.directory}"
    if look.unexplained:
        raise _untold(
            owner,
            f"{where} has the tablespace {look.unexplained[0]}, which its key map does not know",
            _remedy_of(place, "Start its server with tde, which puts it right or says what is."),
        )
    told = events.last_told(keystore, None if place.is_backup else look.place)
    last = told.get(owner.file_name)
    unlinked = look.unlinked_of(owner)
    if unlinked and last != events.DEACTIVATE:
        raise _untold(
            owner,
            f"{where} had the tablespace {unlinked[0]} with it, and nobody has told the key log "
            "that it was dropped: its link in pg_tblspc may only be away",
            _remedy_of(
                place,
                "Start the server, let it tell the log with "
                f"tde keystore list -D {look.directory}, stop it, and repeat the command.",
            ),
        )
    if last == events.ACTIVATE and not place.is_backup:
        raise _untold(
            owner,
            f"the key log tells that {where} encrypts with it, and its key map does not: the map "
            "may be an older one",
            "If the command that was to use it was interrupted, or the cluster was restored from "
            f"before that: tde keystore forget-cluster {look.directory}, then repeat the command "
            f"with -D {look.directory}. Otherwise put the right tde.keymap back.",
        )


def _untold(owner: KeyOwner, why: str, remedy: str) -> ClusterKeystoreError:
    return ClusterKeystoreError(
        f"whether the key {owner.file_name} is needed cannot be told: {why}", remedy=remedy
    )


def _names_for_wal(look: ClusterLook, owner: KeyOwner) -> bool:
    """Tell whether the server of a cluster would miss a key of WAL when it starts."""
    return owner.key_id in look.keymap.all_wal_keys


def _remedy_of(place: Place, otherwise: str = "") -> str:
    if place.is_backup:
        gone = f"tde keystore forget-cluster {place.directory}"
        return f"Delete this backup first if it is no longer wanted, then: {gone}"
    return otherwise


def _require_not_in_archive(
    keystore: Keystore, owner: KeyOwner, archive: Path, ciphers: Mapping[KeyOwner, PageCipher]
) -> None:
    if not archive.is_dir():
        raise DataDirectoryError(
            f"there is no WAL archive {archive}",
            remedy="Check the path, and whether its file system is mounted.",
        )
    try:
        look = look_at_archive(archive, keystore, ciphers)
    except OSError as error:
        raise DataDirectoryError(
            f"could not look at {error.filename or archive}: {error.strerror}"
        ) from error
    if look.number == 0:
        raise _untold(
            owner,
            f"there is no WAL segment in the archive {archive}",
            "Check the path, and whether its file system is mounted. Names of segments begin with "
            "24 hexadecimal digits. Leave an archive out that is empty.",
        )
    segments = look.by_key.get(owner, [])
    if segments:
        raise _needed(
            owner,
            f"the archive {archive} has {len(segments)} WAL segments with it, such as "
            f"{segments[0].name}",
            "Remove them first if no backup needs them any more.",
        )
    if look.untold:
        raise _untold(
            owner,
            f"{look.untold[0]} tells no key that is in the keystore ({len(look.untold)} such "
            f"files in the archive {archive})",
            "Look at a copy of the archive that is neither compressed nor encrypted by another "
            "program, without segments of other keystores and of keys that are destroyed.",
        )


def _needed(owner: KeyOwner, why: str, remedy: str) -> ClusterKeystoreError:
    return ClusterKeystoreError(f"the key {owner.file_name} is needed: {why}", remedy=remedy)


def _drop_from_map(keystore: Keystore, owner: KeyOwner, look: ClusterLook) -> None:
    kept = [
        entry
        for entry in look.keymap.history
        if not (entry.source.is_of_wal and entry.key_id == owner.key_id)
    ]
    try:
        write_map(look.directory, kept, keystore, server_os_user(look.directory))
    except OSError as error:
        raise KeystoreError(
            f"could not write the key map of {look.directory}: {error.strerror}",
            remedy="The key is still there. Remove the cause, and repeat the command.",
        ) from error
