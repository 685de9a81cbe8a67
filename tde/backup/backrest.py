"""Backups that pgBackRest takes, sealed by the list that it keeps of each.

Its list, backup.manifest, has the SHA-1 of every file. That is enough for a list which is proven:
who would put another file in the place of one needs a second preimage, and nobody knows how to find
one, nor could he choose what the server has encrypted. The seal has the SHA-256 of the list, and of
the archived WAL without which the backup is no cluster.
"""

from __future__ import annotations

import hashlib
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tde.audit.backrest import MANIFEST
from tde.backup.backrest_tool import BackRest, TakenBackup
from tde.backup.seal import LABEL, NewSeal, Seal, new_seal
from tde.backup.taking import needed_keys, now
from tde.errors import BackupError, TdeError
from tde.ownership import create_directory
from tde.postgres.server.control import ControlData, read_control_data
from tde.postgres.server.file_user import files_as
from tde.postgres.server.owned_files import temporary_name

if TYPE_CHECKING:
    from tde.keystore import Keystore
    from tde.postgres.cluster.cluster import Cluster

#: The form of a seal.
BACKREST = "pgbackrest"

_LOG_BYTES = 1 << 32  # What the first eight digits of a segment's number count.


@dataclass(frozen=True)
class SealedBackup:
    """A backup that was taken: its name, and where its seal is."""

    stanza: str
    backup: TakenBackup
    seal: Seal
    file: Path


def take_backrest_backup(
    cluster: Cluster, keystore: Keystore, directory: Path, *, stanza: str = "", kind: str = ""
) -> SealedBackup:
    """Have pgBackRest take a backup, and put its seal into a directory.

    pgBackRest is told what the server's archive_command tells it. What it says of its progress goes
    where this process's own output goes.

    Args:
        directory: for seals; it is made when it is missing.
        stanza: by default that of archive_command.
        kind: ``full``, ``diff`` or ``incr``; by default what pgBackRest is configured to take.

    Raises:
        ServerNotRunningError: there is no server.
        BackupError: pgBackRest is not there, or not configured for this cluster; or the seal cannot
            be made.
        ProgramError: it has failed; it has said why.
    """
    tool = BackRest(cluster, stanza)
    tool.require_settings()
    control = read_control_data(cluster.data_directory, cluster.binaries, cluster.os_user)
    before = set(tool.backups(control.system_identifier))
    _make_directory(directory, cluster)
    unfinished = directory / temporary_name(f"{tool.stanza}.seal.json")
    began = now()
    with new_seal(unfinished, cluster.os_user) as file:
        tool.back_up(kind)
        try:
            taken = set(tool.backups(control.system_identifier)) - before
            if not taken:
                raise BackupError("pgBackRest lists no new backup of this cluster")
            newest = max(taken, key=lambda one: one.ended)
            seal = _seal(cluster, keystore, tool, newest, control, began)
            _write(file, seal, keystore, f"{tool.stanza}-{newest.label}.seal.json")
        except (TdeError, OSError) as error:
            raise BackupError(
                f"the backup was taken, and could not be sealed: {error}",
                remedy=getattr(error, "remedy", "")
                or "Mend that, and take another one: there is "
                "no seal for one that is there already.",
            ) from error
    return SealedBackup(tool.stanza, newest, seal, file.path)


def _make_directory(directory: Path, cluster: Cluster) -> None:
    with suppress(FileExistsError):  # If it is no directory, the seal cannot be made in it.
        try:
            create_directory(directory, None if cluster.os_user is None else cluster.os_user.owner)
        except FileNotFoundError as error:
            raise BackupError(f"{directory.parent} does not exist") from error


def _write(file: NewSeal, seal: Seal, keystore: Keystore, name: str) -> None:
    file.write(seal.pack(keystore.authentication_key(LABEL)))
    try:
        file.rename(name)
    except FileExistsError as error:
        raise BackupError(
            f"{file.path.with_name(name)} is there already: of a backup in another repository",
            remedy="Name another directory for seals, and take another backup.",
        ) from error


def _seal(
    cluster: Cluster,
    keystore: Keystore,
    tool: BackRest,
    backup: TakenBackup,
    control: ControlData,
    began: str,
) -> Seal:
    segments = list(tool.segments(backup, _segments_between(backup, control.wal_segment_bytes)))
    for name, sha1 in segments:
        _require_own(cluster, name.rpartition("/")[2][:24], sha1)
    names = [f"backup/{tool.stanza}/{backup.label}/{MANIFEST}", *(name for name, _ in segments)]
    return Seal(
        keystore_uuid=keystore.uuid.hex,
        keys=tuple(needed_keys(cluster, keystore)),
        system_identifier=control.system_identifier,
        server_version=cluster.binaries.version_text,
        form=BACKREST,
        is_incremental=backup.kind != "full",
        began=began,
        ended=now(),
        files={name: tool.hash(backup, name) for name in names},
    )


def _segments_between(backup: TakenBackup, segment_bytes: int) -> list[str]:
    """Return the names of all segments that a backup needs, in their order."""
    if backup.start[:8] != backup.stop[:8]:
        raise BackupError(f"the timeline has changed during the backup {backup.label}")
    in_log = _LOG_BYTES // segment_bytes
    first, last = (
        int(name[8:16], 16) * in_log + int(name[16:], 16) for name in (backup.start, backup.stop)
    )
    return [
        f"{backup.start[:8]}{number // in_log:08X}{number % in_log:08X}"
        for number in range(first, last + 1)
    ]


def _require_own(cluster: Cluster, segment: str, sha1: str) -> None:
    """Compare a segment in the archive with the server's own, as long as that is there."""
    path = cluster.data_directory / "pg_wal" / segment
    found = hashlib.sha1(usedforsecurity=False)
    try:
        with files_as(cluster.os_user), path.open("rb") as file:
            while chunk := file.read(1 << 20):
                found.update(chunk)
    except FileNotFoundError:
        return
    if found.hexdigest() != sha1 and path.exists():
        raise BackupError(
            f"the segment {segment} in the archive of pgBackRest is not the server's",
            remedy="Find out who can write to the repository.",
        )
