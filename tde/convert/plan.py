"""The plan of a conversion: files to convert, files to remove, and files that forbid it."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tde import _core
from tde.errors import ConversionError
from tde.page.codec import PAGE_SIZE
from tde.page.identity import FileIdentity, RelationIdentity
from tde.postgres.cluster.links import (
    DirectoryId,
    directory_id,
    is_link_of_cluster,
    linked_directories,
)
from tde.postgres.cluster.plain_files import plain_rule
from tde.postgres.cluster.unfinished_conversion import JOURNAL_DIRECTORY
from tde.postgres.facts import SEGMENT_PAGES

# How many parts the path of a relation file has, by its first one.
_DEPTHS = {"base": 3, "global": 2, "pg_tblspc": 5}
_MOST_NAMED = 3
_RELATIONS = (_core.CLASS_RELATION, _core.CLASS_TEMP_RELATION)
# Parts of the data directory where a link would lead to data that nobody expects elsewhere.
_STORAGE = ("base", "global", "pg_tblspc", "pg_wal", "pg_replslot", "pg_notify")


@dataclass(frozen=True, slots=True)
class PlannedFile:
    """A file to convert.

    Attributes:
        path: relative to the data directory, through ``pg_wal`` and ``pg_tblspc``.
        size: in bytes, a multiple of the page size.
    """

    path: str
    size: int

    @property
    def identity(self) -> FileIdentity:
        """What the file's blocks are encrypted for."""
        return FileIdentity.from_path(self.path)


@dataclass
class Plan:
    """What a conversion will do.

    Attributes:
        files: to convert.
        plain_files: relation files that stay plain and get checksums.
        worthless: files that the server would remove at its next start, without reading them.
        plaintext: how many relation files stay as they are because their tablespace is plain.
        warnings: what the operator should know.
    """

    files: list[PlannedFile] = field(default_factory=list)
    plain_files: list[PlannedFile] = field(default_factory=list)
    worthless: list[str] = field(default_factory=list)
    plaintext: int = 0
    warnings: list[str] = field(default_factory=list)

    @property
    def size(self) -> int:
        """Bytes of all files to convert."""
        return sum(file.size for file in self.files)


def make_plan(
    data_directory: Path,
    version_directory: str,
    is_encrypted: Callable[[int], bool],
    *,
    turn_on_checksums: bool = False,
    only_relations: bool = False,
) -> Plan:
    """Walk the cluster and decide about every file.

    Args:
        version_directory: name of this cluster's directory in each tablespace, ``PG_15_…``.
        is_encrypted: tells for the OID of a tablespace whether its files are to be converted.
        turn_on_checksums: whether the files of plaintext tablespaces are changed too.
        only_relations: leave WAL and temporary files out, and other tablespaces.

    Raises:
        ConversionError: a file is not what a server leaves after a clean shutdown.
    """
    plan = Plan()
    archived = 0
    unknown: list[str] = []
    for path, status in _walk(data_directory, version_directory):
        file_class, tablespace, *_ = _core.parse_path(os.fsencode(path))
        if only_relations and not (file_class in _RELATIONS and is_encrypted(tablespace)):
            continue
        if file_class == _core.CLASS_PLAIN:
            if status.st_size and stat.S_ISREG(status.st_mode) and plain_rule(path) is None:
                unknown.append(path)
            continue
        if not _is_in_place(path, file_class):
            plan.warnings.append(f"{path} is not where PostgreSQL keeps such files; it stays as is")
            continue
        archived += file_class == _core.CLASS_WAL and not path.startswith("pg_wal/")
        if file_class == _core.CLASS_EPHEMERAL:
            if _is_removed_by_server(path):
                plan.worthless.append(path)
            else:
                plan.warnings.append(f"{path} is not a file that PostgreSQL makes; it stays as is")
        elif file_class == _core.CLASS_WAL or is_encrypted(tablespace):
            _require_convertible(data_directory / path, path, status)
            plan.files.append(PlannedFile(path, status.st_size))
        else:
            plan.plaintext += 1
            if turn_on_checksums:
                _require_convertible(data_directory / path, path, status)
                plan.plain_files.append(PlannedFile(path, status.st_size))
    if unknown:
        plan.warnings.append(
            f"{len(unknown)} files are not PostgreSQL's and stay as they are: "
            + ", ".join(unknown[:_MOST_NAMED])
            + (", …" if len(unknown) > _MOST_NAMED else "")
        )
    if archived:
        plan.warnings.append(
            f"{archived} WAL segments outside of pg_wal are converted too, for restore_command"
        )
    return plan


def _is_in_place(path: str, file_class: int) -> bool:
    """Tell whether a file belongs to the cluster, and not to a copy of one in a subdirectory.

    WAL may be anywhere: an archive in the data directory has to fit the cluster.
    """
    parts = path.split("/")
    if file_class in (_core.CLASS_RELATION, _core.CLASS_TEMP_RELATION):
        return _DEPTHS.get(parts[0]) == len(parts)
    return file_class == _core.CLASS_WAL or parts[0] in _STORAGE


def _is_removed_by_server(path: str) -> bool:
    """Tell whether PostgreSQL itself removes such a file at its start, whatever is in it.

    As in RemovePgTempFiles (fd.c), RemoveTempXlogFiles (xlog.c), AsyncShmemInit (async.c, which
    empties pg_notify) and ReorderBufferCleanupSerializedTXNs (reorderbuffer.c).
    """
    parts = path.split("/")
    if "pgsql_tmp" in parts[:-1]:
        return parts[parts.index("pgsql_tmp") + 1].startswith("pgsql_tmp")
    if parts[0] == "pg_replslot":
        return parts[-1].startswith("xid")
    return parts[0] in ("pg_wal", "pg_notify")


def _require_convertible(full: Path, path: str, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise ConversionError(
            f"{full} is not a regular file",
            remedy="PostgreSQL keeps data in regular files only. Put the file itself there.",
        )
    if status.st_nlink > 1:
        raise ConversionError(
            f"{full} has {status.st_nlink} names (hard links), and all would be changed",
            remedy="Remove the other names, for example the old cluster of pg_upgrade --link or a "
            "snapshot made with cp -l; or give the cluster its own copy: "
            f"cp -p {full} {full}.copy && mv {full}.copy {full}",
        )
    rest = status.st_size % PAGE_SIZE
    if rest:
        raise ConversionError(
            f"{full} has {status.st_size} bytes: its last {rest} are not a whole page",
            remedy="A failed extension of the relation leaves such a rest, which PostgreSQL "
            "ignores. Make sure of that (pg_amcheck), stop the server, keep a copy of the file and "
            f"cut it: truncate -s {status.st_size - rest} {full}",
        )
    is_relation = isinstance(FileIdentity.from_path(path).identity, RelationIdentity)
    if is_relation and status.st_size > SEGMENT_PAGES * PAGE_SIZE:
        raise ConversionError(
            f"{full} is larger than a segment file of {SEGMENT_PAGES * PAGE_SIZE} bytes",
            remedy="Only builds with PostgreSQL's default segment size are supported.",
        )


def _walk(root: Path, version_directory: str) -> Iterator[tuple[str, os.stat_result]]:
    """Yield the path and status of everything but directories, in a stable order."""
    pending = [""]
    linked = linked_directories(root)
    while pending:
        directory = pending.pop()
        try:
            with os.scandir(root / directory) as found:
                entries = sorted(found, key=lambda entry: entry.name)
        except OSError as error:
            raise ConversionError(
                f"cannot look into {root / directory}: {error.strerror}",
                remedy="A tablespace or pg_wal may be on a file system that is not mounted.",
            ) from error
        for entry in entries:
            path = f"{directory}/{entry.name}" if directory else entry.name
            if entry.is_dir(follow_symlinks=False) or entry.is_symlink():
                follow = _directory_to_enter(root, path, entry, version_directory, linked)
                if follow is not None:
                    pending.append(follow)
            else:
                yield path, entry.stat(follow_symlinks=False)


def _directory_to_enter(
    root: Path,
    path: str,
    entry: os.DirEntry[str],
    version_directory: str,
    linked: frozenset[DirectoryId],
) -> str | None:
    """Return the directory to walk for a directory or link, None for one to pass over."""
    parts = path.split("/")
    by_name = entry.is_symlink() or is_link_of_cluster(path)
    if not by_name and directory_id(entry.stat(follow_symlinks=False)) in linked:
        return None  # It is walked by its link: files met twice would be converted twice.
    if path == JOURNAL_DIRECTORY or entry.name == "lost+found":
        return None
    if parts[0] == "pg_tblspc" and len(parts) == 2 and parts[1].isascii() and parts[1].isdigit():
        # The location may also hold the directories of other clusters, before a pg_upgrade.
        inside = f"{path}/{version_directory}"
        if not (root / inside).is_dir():
            raise ConversionError(
                f"the tablespace {root / path} has no directory {version_directory}",
                remedy="Mount its file system, or correct the link.",
            )
        return inside
    if not entry.is_symlink() or path == "pg_wal":
        return path
    if parts[0] in _STORAGE:
        raise ConversionError(
            f"{root / path} is a link",
            remedy="Only pg_wal and the entries of pg_tblspc may be links. Put the file or "
            "directory itself there.",
        )
    return None  # A log directory or a configuration file; nothing of an encrypted class.
