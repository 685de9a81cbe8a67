"""The files of a sealed backup, in the directories of a cluster: unpacked or copied, and compared.

The server's user does it, who must be able to write where they go.
"""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from tde.backup.reading import Reader
from tde.backup.seal import Seal
from tde.backup.taking import TAR
from tde.backup.verifying import manifest_problems, sealed_problems
from tde.errors import BackupError, ProgramError
from tde.postgres.cluster.initialize import prepared_directory
from tde.postgres.cluster.links import restored_tablespaces, tablespaces_in
from tde.postgres.server.os_user import run_as, user_environment
from tde.postgres.server.owned_files import write_owned_file

if TYPE_CHECKING:
    from tde.postgres.cluster.cluster import Cluster

TABLESPACE_MAP = "tablespace_map"

_OID_ARCHIVE = re.compile(r"([0-9]+)\.tar")
_CHUNK = 1 << 20


def place_files(
    backup: Path, cluster: Cluster, seal: Seal, mapping: Mapping[Path, Path], places: list[Path]
) -> None:
    """Put the files of a backup into the directory of a cluster, and its tablespaces elsewhere.

    Args:
        cluster: its directory is there, and empty.
        mapping: where tablespaces go, by where they were, as :func:`require_places` has it.
        places: gets each directory of a tablespace that files are put into, for who takes it back.

    Raises:
        BackupError: what was verified was altered since.
        DataDirectoryError: a directory is not empty.
        ProgramError: tar or cp has failed.
    """
    if seal.form == TAR:
        _unpack(backup, cluster, seal, mapping, places)
    else:
        _copy(backup, cluster, seal, mapping, places)


def require_places(backup: Path, seal: Seal, mapping: Mapping[Path, Path]) -> None:
    """Check that what goes elsewhere was in the backup, and that all that must has a place.

    The tablespaces of a plain backup have to go somewhere, because where they are is the backup.

    Raises:
        BackupError: a tablespace is not known, or has no place.
    """
    places = original_places(backup, seal)
    for old in mapping:
        if old not in places.values():
            known = ", ".join(map(str, places.values())) or "none"
            raise BackupError(
                f"no tablespace of the backup was in {old}",
                remedy=f"Its tablespaces were in: {known}.",
            )
    for oid, place in places.items():
        if seal.form != TAR and place not in mapping:
            raise BackupError(
                f"tablespace {oid} of the plain backup {backup} is in {place}, which is the backup",
                remedy=f"Say where it goes: -T {place}=DIR",
            )


def original_places(backup: Path, seal: Seal) -> dict[int, Path]:
    """Return where the tablespaces of a backup were, by OID; of a plain one, where it has them.

    Raises:
        BackupError: its base.tar cannot be read.
    """
    if seal.form != TAR:
        return {int(link.name): link.readlink() for link in _links_of(backup)}
    try:
        with tarfile.open(backup / "base.tar") as archive:
            member = archive.extractfile(TABLESPACE_MAP)
            content = b"" if member is None else member.read()
    except KeyError:
        return {}
    except (OSError, tarfile.TarError) as error:
        raise BackupError(f"{backup}/base.tar cannot be read: {error}") from error
    return tablespaces_in(content)


def _unpack(
    backup: Path, cluster: Cluster, seal: Seal, mapping: Mapping[Path, Path], places: list[Path]
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
        now[oid] = place = mapping.get(was[oid], was[oid]).absolute()
        with prepared_directory(place, cluster.os_user):
            places.append(place)
            unpack(archive.name, place)
    if left := sorted(set(was) - set(now)):
        raise BackupError(f"the backup lacks the archives of tablespaces {left}")
    if now:
        lines = "".join(f"{oid} {_escaped(place)}\n" for oid, place in sorted(now.items()))
        write_owned_file(directory / TABLESPACE_MAP, lines, cluster.os_user)
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


def _copy(
    backup: Path, cluster: Cluster, seal: Seal, mapping: Mapping[Path, Path], places: list[Path]
) -> None:
    directory = cluster.data_directory
    spaces = []
    for link in _links_of(backup):
        if link.readlink() not in mapping:
            raise BackupError(f"{link} was altered after it was verified")
        spaces.append((link, mapping[link.readlink()].absolute()))
    _run_cp(cluster, backup, directory)
    for link, place in spaces:
        with prepared_directory(place, cluster.os_user):
            places.append(place)
            _run_cp(cluster, link, place)
        own = directory / "pg_tblspc" / link.name
        run_required(cluster, ["ln", "-sfn", "--", place, own], link)
    # The backup's own mode came along, and what was verified before may have been exchanged since.
    run_required(cluster, ["chmod", "700", directory, *(place for _, place in spaces)], backup)
    problems = list(sealed_problems(directory, seal, Reader()))
    if not problems:  # Now the manifest is proven.
        problems += manifest_problems(directory, Reader())
    if problems:
        raise BackupError(
            f"{backup} was altered after it was verified: {problems[0]}",
            remedy="What was copied is removed. Find out who can write to the backup.",
        )


def _run_cp(cluster: Cluster, source: Path, target: Path) -> None:
    run_required(cluster, ["cp", "-a", "--reflink=auto", "--", f"{source}/.", target], source)


def _links_of(backup: Path) -> list[Path]:
    """Return the links of a plain backup's tablespaces."""
    directory = backup / "pg_tblspc"
    if not directory.is_dir():
        return []
    return sorted(
        path
        for path in directory.iterdir()
        if path.is_symlink() and path.name.isascii() and path.name.isdecimal()
    )


def run_required(cluster: Cluster, command: Sequence[str | Path], what: Path) -> None:
    """Run a command as the server's user, for a part of a backup.

    Raises:
        ProgramError: it has failed.
    """
    done = run_as(cluster.os_user, command)
    _require_done(done.returncode, done.stderr.strip(), what)


def _require_done(code: int, said: str, what: Path) -> None:
    if code != 0:
        raise ProgramError(
            f"{what} could not be restored: {said}",
            remedy="What was made is removed. The server's user must be able to read the backup.",
        )
