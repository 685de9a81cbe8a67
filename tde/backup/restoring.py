"""Making a cluster of a backup: keys first, then files, then what recovery needs to know."""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from tde.backup.seal import Seal
from tde.backup.taking import MANIFEST, TAR
from tde.backup.verifying import Reader, manifest_problems, sealed_problems
from tde.errors import BackupError, DataDirectoryError, ProgramError
from tde.postgres.cluster.initialize import prepared_directory, remove_files
from tde.postgres.cluster.links import restored_tablespaces, tablespaces_in
from tde.postgres.cluster.marker import read_marker
from tde.postgres.server.config_files import AUTOMATIC_FILE
from tde.postgres.server.os_user import run_as, user_environment
from tde.postgres.server.owned_files import append_to_file, write_owned_file

if TYPE_CHECKING:
    from tde.postgres.cluster.cluster import Cluster

_TABLESPACE_MAP = "tablespace_map"
_OID_ARCHIVE = re.compile(r"([0-9]+)\.tar")
_CHUNK = 1 << 20
_TARGETS = (
    "recovery_target",
    *(f"recovery_target_{name}" for name in ("time", "lsn", "xid", "name")),
)


@dataclass(frozen=True)
class RestoreOptions:
    """Where a backup goes, and how far recovery goes.

    Attributes:
        mapping: where tablespaces go, by where they were.
        restore_command: that fetches archived WAL; empty for the backup's own end.
        targets: settings of recovery_target_*, by their endings; none for the end of the archive.
        archives: whether the restored server archives WAL as the original does, on a timeline of
            its own.
    """

    mapping: Mapping[Path, Path] = field(default_factory=dict)
    restore_command: str = ""
    targets: Mapping[str, str] = field(default_factory=dict)
    archives: bool = False


def command_for(archive: Path) -> str:
    """Return the restore_command for a directory of archived segments."""
    place = str(archive).replace("%", "%%")
    return f"cp {shlex.quote(f'{place}/%f')} %p"


def restore_backup(
    backup: Path, cluster: Cluster, seal: Seal, keystore: Path, options: RestoreOptions
) -> None:
    """Unpack or copy a backup that was verified into the directory of a cluster, left stopped.

    Args:
        cluster: the new one; its directory is made, or empty.
        keystore: the directory of the keystore, which the cluster remembers.

    Raises:
        BackupError: a tablespace has no place, or the options contradict each other.
        DataDirectoryError: a directory is not empty.
        ProgramError: tar or cp has failed; what was made is removed.
    """
    _require_sound(options)
    if seal.is_incremental:
        raise BackupError(
            f"{backup} is incremental: by itself it is no cluster",
            remedy="Unpack it and those before it, and combine them: tde pg exec pg_combinebackup.",
        )
    _require_known(options.mapping, original_places(backup, seal))
    directory = cluster.data_directory
    places: list[Path] = []
    with prepared_directory(directory, cluster.os_user):
        try:
            if seal.form == TAR:
                _unpack(backup, cluster, seal, options, places)
            else:
                _copy(backup, cluster, seal)
            _configure(cluster, options)
            marker = read_marker(directory)
            if marker is not None:
                replace(marker, keystore=keystore.resolve()).write(directory, cluster.os_user)
        except BaseException:
            for place in (*places, directory):
                remove_files(place, cluster.os_user)
            raise


def _require_known(mapping: Mapping[Path, Path], places: Mapping[int, Path]) -> None:
    for old in mapping:
        if old not in places.values():
            known = ", ".join(map(str, places.values())) or "none"
            raise BackupError(
                f"no tablespace of the backup was in {old}",
                remedy=f"Its tablespaces were in: {known}.",
            )


def original_places(backup: Path, seal: Seal) -> dict[int, Path]:
    """Return where the tablespaces of a backup in tar format were, by OID.

    Raises:
        BackupError: its base.tar cannot be read.
    """
    if seal.form != TAR:
        return {}
    try:
        with tarfile.open(backup / "base.tar") as archive:
            member = archive.extractfile(_TABLESPACE_MAP)
            content = b"" if member is None else member.read()
    except KeyError:
        return {}
    except (OSError, tarfile.TarError) as error:
        raise BackupError(f"{backup}/base.tar cannot be read: {error}") from error
    return tablespaces_in(content)


def _require_sound(options: RestoreOptions) -> None:
    if len(options.targets) > 1:
        raise BackupError(
            f"recovery can end at one target, and {len(options.targets)} were given",
            remedy="Name one of --target-time, --target-lsn, --target-xid and --target-name.",
        )
    if options.targets and not options.restore_command:
        raise BackupError(
            "a target needs the WAL that leads to it",
            remedy="Name the archive with --archive, or --restore-command.",
        )
    if options.archives and not options.restore_command:
        # It would go on under the names of segments that the original has archived already.
        raise BackupError(
            "a server that archives has to begin where the archive ends",
            remedy="Name the archive with --archive, or --restore-command; or leave out "
            "--archiving.",
        )


def _unpack(
    backup: Path, cluster: Cluster, seal: Seal, options: RestoreOptions, places: list[Path]
) -> None:
    directory = cluster.data_directory

    def unpack(name: str, where: Path) -> None:
        _run_tar(cluster, backup / name, where, seal.files[name])

    unpack("base.tar", directory)
    was = restored_tablespaces(directory)
    now = {}
    for oid, archive in _archives(backup):
        if oid not in was:
            raise BackupError(f"{archive.name} is of a tablespace that the backup does not know")
        now[oid] = place = options.mapping.get(was[oid], was[oid]).absolute()
        with prepared_directory(place, cluster.os_user):
            places.append(place)
            unpack(archive.name, place)
    if left := sorted(set(was) - set(now)):
        raise BackupError(f"the backup lacks the archives of tablespaces {left}")
    if now:
        lines = "".join(f"{oid} {_escaped(place)}\n" for oid, place in sorted(now.items()))
        write_owned_file(directory / _TABLESPACE_MAP, lines, cluster.os_user)
    unpack("pg_wal.tar", directory / "pg_wal")


def _archives(backup: Path) -> Iterator[tuple[int, Path]]:
    for path in sorted(backup.iterdir()):
        if found := _OID_ARCHIVE.fullmatch(path.name):
            yield int(found[1]), path


def _escaped(path: Path) -> str:
    """As do_pg_backup_start writes it: a backslash before newlines and backslashes."""
    return re.sub(r"([\\\n\r])", r"\\\1", str(path))


def _run_tar(cluster: Cluster, archive: Path, directory: Path, code: str) -> None:
    """Unpack as the server's user, and compare the very bytes that were unpacked with the seal.

    What was verified before may have been exchanged since. The archive is opened here, because it
    may be in a place that the server's user cannot look into; a link is not followed.
    """
    command = ["tar", "-x", "-f", "-", "-C", str(directory)]
    descriptor = os.open(archive, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    found = hashlib.sha256()
    user = cluster.os_user
    with (
        os.fdopen(descriptor, "rb") as stream,
        tempfile.TemporaryFile() as said,
        subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stderr=said,
            cwd="/",
            env=user_environment(user),
            user=None if user is None else user.uid,
            group=None if user is None else user.gid,
            extra_groups=None if user is None else user.groups,
        ) as process,
    ):
        assert process.stdin is not None
        with suppress(BrokenPipeError):
            while chunk := stream.read(_CHUNK):
                found.update(chunk)
                process.stdin.write(chunk)
        with suppress(BrokenPipeError):
            process.stdin.close()
        process.wait()
        said.seek(0)
        _require_done(process.returncode, said.read().decode(errors="replace").strip(), archive)
    if found.hexdigest() != code:
        raise BackupError(
            f"{archive} was altered after it was verified",
            remedy="What was unpacked is removed. Find out who can write to the backup.",
        )


def _copy(backup: Path, cluster: Cluster, seal: Seal) -> None:
    directory = cluster.data_directory
    tablespaces = backup / "pg_tblspc"
    if tablespaces.is_dir() and any(tablespaces.iterdir()):
        raise BackupError(
            f"{backup} is a plain backup with tablespaces, whose links lead to the backup's own",
            remedy="Copy it by hand, and change the links in pg_tblspc. Backups in tar format are "
            "restored with their tablespaces.",
        )
    done = run_as(cluster.os_user, ["cp", "-a", "--reflink=auto", f"{backup}/.", directory])
    _require_done(done.returncode, done.stderr.strip(), backup)
    # The backup's own mode came along, and what was verified before may have been exchanged since.
    run_as(cluster.os_user, ["chmod", "700", directory])
    problems = [
        *sealed_problems(directory, seal, Reader()),
        *manifest_problems(directory, Reader()),
    ]
    if problems:
        raise BackupError(
            f"{backup} was altered after it was verified: {problems[0]}",
            remedy="What was copied is removed. Find out who can write to the backup.",
        )


def _require_done(code: int, said: str, what: Path) -> None:
    if code != 0:
        raise ProgramError(
            f"{what} could not be restored: {said}",
            remedy="What was made is removed. The server's user must be able to read the backup.",
        )


def _configure(cluster: Cluster, options: RestoreOptions) -> None:
    """Have the server be itself: no standby of the original's, and no hand on what that has."""
    directory = cluster.data_directory
    if not (directory / AUTOMATIC_FILE).exists():
        raise DataDirectoryError(f"the backup has no {AUTOMATIC_FILE}: it is no data directory")
    for name in (MANIFEST, "standby.signal", "recovery.signal"):
        (directory / name).unlink(missing_ok=True)
    settings = {"primary_conninfo": "", "primary_slot_name": "", "recovery_min_apply_delay": "0"}
    if not options.archives:
        # A copy beside the original would write into its archive, and clean it up.
        settings |= {"archive_mode": "off", "archive_cleanup_command": ""}
        settings["recovery_end_command"] = ""
    # Those of an earlier restore may be in the backup; two targets at once are refused.
    settings |= dict.fromkeys(_TARGETS, "")
    settings["recovery_target_timeline"] = "latest"
    if options.restore_command:
        settings["restore_command"] = options.restore_command
        settings["recovery_target_action"] = "promote"
        for name, value in options.targets.items():
            # Behind the others: an empty one of another kind is refused after it.
            del settings[f"recovery_target_{name}"]
            settings[f"recovery_target_{name}"] = value
        write_owned_file(directory / "recovery.signal", "", cluster.os_user)
    lines = "".join(f"{name} = {_quoted(value)}\n" for name, value in settings.items())
    # What was written before may have no newline at its end.
    append_to_file(directory / AUTOMATIC_FILE, f"\n{lines}", cluster.os_user)


def _quoted(value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace("'", "''")
    return f"'{escaped}'"
