"""Incremental backups: a full one and those that follow become one data directory.

pg_combinebackup works on data directories, so each backup is unpacked or copied first, beside the
new cluster. It compares key maps and positions before it writes anything
(c_ext/interpose/policy/combine.c).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from tde.backup.backrest import BACKREST
from tde.backup.seal import Seal
from tde.backup.unpacking import TABLESPACE_MAP, original_places, place_files, run_required
from tde.errors import BackupError, ProgramError
from tde.postgres.cluster.cluster import Cluster
from tde.postgres.cluster.initialize import prepared_directory, remove_files
from tde.postgres.cluster.links import restored_tablespaces
from tde.postgres.server.program import run_program
from tde.replication.standby import require_free


def require_chain(chain: Sequence[tuple[Path, Seal]]) -> None:
    """Check that backups are a full one and incremental ones, all of one cluster.

    Raises:
        BackupError: they are not, or pgBackRest has them.
    """
    first, seal = chain[0]
    if any(one.form == BACKREST for _, one in chain):
        raise BackupError(
            "pgBackRest restores what it has taken itself",
            remedy="After tde pg verify-backup: pgbackrest --stanza=NAME --set=LABEL restore",
        )
    if seal.is_incremental:
        raise BackupError(
            f"{first} is incremental: by itself it is no cluster",
            remedy="Name the full backup first, and then all incremental ones up to it.",
        )
    for backup, one in chain[1:]:
        if not one.is_incremental:
            raise BackupError(
                f"{backup} is a full backup, and needs none before it",
                remedy="Name it alone, or first.",
            )
        if one.system_identifier != seal.system_identifier:
            raise BackupError(f"{backup} is of another cluster than {first}")


def combine_files(
    chain: Sequence[tuple[Path, Seal]],
    cluster: Cluster,
    mapping: Mapping[Path, Path],
    places: list[Path],
) -> None:
    """Combine backups in the directory of a cluster, which is there and empty.

    Args:
        mapping: where tablespaces go, by where they were at the time of the last backup.
        places: gets each directory of a tablespace that files are put into.

    Raises:
        BackupError: what was verified was altered since.
        DataDirectoryError: a directory is not empty.
        ProgramError: tar, cp or pg_combinebackup has failed.
    """
    was = original_places(*chain[-1])
    for old in was.values():  # The backups may take hours to unpack.
        require_free(old, mapping.get(old, old).absolute())
    with _scratch(cluster) as scratch:
        inputs = [_unpacked(scratch / str(n), cluster, *one) for n, one in enumerate(chain)]
        # A manifest would have to come from all of them, and the new server needs none.
        arguments = [*map(str, inputs), "-o", str(cluster.data_directory), "--no-manifest"]
        for oid, old in was.items():
            place = mapping.get(old, old).absolute()
            with prepared_directory(place, cluster.os_user):
                places.append(place)
            arguments += ["-T", f"{_escaped(_space(inputs[-1], oid))}={_escaped(place)}"]
        done = run_program(cluster.binaries, "pg_combinebackup", arguments, os_user=cluster.os_user)
        if done.returncode != 0:
            raise ProgramError(
                f"the backups cannot be combined: {done.stderr.strip()}",
                remedy="What was made is removed. Name all backups since the full one, in their "
                "order.",
            )


@contextmanager
def _scratch(cluster: Cluster) -> Iterator[Path]:
    """Yield a directory beside the cluster's own, for as much as all backups are; it is removed."""
    directory = cluster.data_directory
    scratch = directory.with_name(f"{directory.name}.combining")
    if scratch.exists():
        raise BackupError(
            f"{scratch} is in the way, in which backups are combined",
            remedy="If it is left of a restore that was killed, remove it.",
        )
    with prepared_directory(scratch, cluster.os_user):
        try:
            yield scratch
        finally:
            remove_files(scratch, cluster.os_user)
    with suppress(OSError):  # Empty, it does no harm.
        scratch.rmdir()


def _unpacked(directory: Path, cluster: Cluster, backup: Path, seal: Seal) -> Path:
    """Make a data directory of one backup, with its tablespaces beside."""
    copy = Cluster(directory, cluster.binaries, os_user=cluster.os_user)
    places = original_places(backup, seal)
    mapping = {old: _space(directory, oid) for oid, old in places.items()}
    with prepared_directory(directory, cluster.os_user):
        place_files(backup, copy, seal, mapping, [])
    # Of a tar archive: the server would make these links at its start.
    for oid, place in restored_tablespaces(directory).items():
        link = directory / "pg_tblspc" / str(oid)
        run_required(cluster, ["ln", "-s", "--", place, link], backup)
    (directory / TABLESPACE_MAP).unlink(missing_ok=True)
    return directory


def _escaped(path: Path) -> str:
    """As pg_combinebackup takes a path in -T."""
    return str(path).replace("=", "\\=")


def _space(directory: Path, oid: int) -> Path:
    return directory.with_name(f"{directory.name}-{oid}")
