"""The inventory: the files there are, and what each should be by its name alone.

Names are read by the C parser that the server's own library uses, so the auditor and the
server cannot disagree about what a file is.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from tde import _core
from tde.audit.report import FileClass, Finding, FindingKind
from tde.page.identity import CoreIdentity
from tde.postgres.cluster.links import (
    DirectoryId,
    directory_id,
    is_link_of_cluster,
    linked_directories,
)
from tde.postgres.cluster.plain_files import PlainRule, plain_rule
from tde.postgres.server.control import ControlData

_CLASSES = {
    _core.CLASS_RELATION: FileClass.RELATION,
    _core.CLASS_TEMP_RELATION: FileClass.RELATION,
    _core.CLASS_WAL: FileClass.WAL,
    _core.CLASS_EPHEMERAL: FileClass.EPHEMERAL,
}
# A segment under a name of its own: a copy that is still being made, or one that was kept.
_SEGMENT_COPY = re.compile(r"([0-9A-F]{24})\.(?!gz$|bz2$|xz$|lz4$|zst$|[0-9A-F]{8}\.backup$)\w+")
_COMPRESSED = re.compile(r".*\.(?:gz|bz2|xz|lz4|zst|tgz)")


class PlaceKind(Enum):
    """What sort of directory is walked."""

    CLUSTER = "cluster"
    ARCHIVE = "archive"
    BACKUP = "backup"


@dataclass(frozen=True)
class Place:
    """A directory to audit.

    Attributes:
        control: the control data of the cluster that the files belong to.
        replay_pending: whether pages may be torn because WAL replay has not repaired them yet.
        live: whether files may change while they are read.
    """

    kind: PlaceKind
    root: Path
    major: int
    control: ControlData
    replay_pending: bool
    live: bool

    @property
    def label(self) -> str:
        """The name of the place in tables."""
        return "cluster" if self.kind is PlaceKind.CLUSTER else f"{self.kind.value} {self.root}"


@dataclass(frozen=True)
class AuditedFile:
    """One file and what its name says.

    Attributes:
        name: path relative to the place.
        identity: of the blocks, as :mod:`tde._core` takes it; only for relations and WAL.
        first_block: number of the file's first block in its fork.
        tablespace: OID, for relations.
        rule: for files that are plain by design.
    """

    place: Place
    path: Path
    name: str
    size: int
    file_class: FileClass
    identity: CoreIdentity = (0, 0, 0, 0, 0)
    first_block: int = 0
    tablespace: int | None = None
    rule: PlainRule | None = None


def list_files(place: Place) -> tuple[list[AuditedFile], list[Finding]]:
    """Return the regular files below a place, and what cannot be looked at."""
    files: list[AuditedFile] = []
    findings: list[Finding] = []
    # What they lead to is judged by the names that the server knows.
    linked = frozenset() if place.kind is PlaceKind.ARCHIVE else linked_directories(place.root)
    for name, path, size in _walk(place, place.root, "", set(), linked, findings):
        files.append(_classify(place, name, path, size))
    files.sort(key=lambda file: (file.file_class.value, file.name))
    return files, findings


def _walk(
    place: Place,
    directory: Path,
    prefix: str,
    seen: set[DirectoryId],
    linked: frozenset[DirectoryId],
    findings: list[Finding],
) -> Iterator[tuple[str, Path, int]]:
    """Yield (name, path, size), through the links of tablespaces and of pg_wal as well."""
    try:
        entries = sorted(os.scandir(directory), key=lambda entry: entry.name)
    except FileNotFoundError:
        return  # Dropped since its parent was read.
    except OSError as error:
        findings.append(unreadable(directory, error))
        return
    for entry in entries:
        name = f"{prefix}{entry.name}"
        # What vanishes between two looks at it is no longer part of the cluster.
        with suppress(FileNotFoundError):
            try:
                status = entry.stat()
            except PermissionError as error:
                findings.append(unreadable(Path(entry.path), error))
                continue
            if stat.S_ISREG(status.st_mode):
                yield name, Path(entry.path), status.st_size
            elif stat.S_ISDIR(status.st_mode):
                # A link may lead to a directory that is inside as well.
                identity = directory_id(status)
                if identity in seen or (identity in linked and not is_link_of_cluster(name)):
                    continue
                seen.add(identity)
                if _is_foreign(place, name):
                    findings.append(_foreign_directory(Path(entry.path)))
                else:
                    yield from _walk(place, Path(entry.path), f"{name}/", seen, linked, findings)


def _is_foreign(place: Place, name: str) -> bool:
    """Tell whether a directory in a tablespace belongs to a server of another version."""
    parts = name.split("/")
    if place.kind is PlaceKind.ARCHIVE or len(parts) != 3 or parts[0] != "pg_tblspc":
        return False
    own = f"PG_{place.major}_{place.control.catalog_version}"
    return parts[2].startswith("PG_") and parts[2] != own


def _classify(place: Place, name: str, path: Path, size: int) -> AuditedFile:
    copy = _SEGMENT_COPY.fullmatch(path.name) if place.kind is PlaceKind.ARCHIVE else None
    core_class, tablespace, *words, fork, first_block, _ = _core.parse_path(
        copy.group(1) if copy else name
    )
    file_class = _CLASSES.get(core_class, FileClass.PLAIN)
    if name == "pg_wal/RECOVERYXLOG":
        # A segment on its way from the archive, whose name only the server knows.
        file_class = FileClass.EPHEMERAL
    if place.kind is PlaceKind.ARCHIVE and file_class is not FileClass.WAL:
        file_class = FileClass.PLAIN
    rule = None
    if file_class is FileClass.PLAIN:
        rule = plain_rule(name)
        file_class = FileClass.UNKNOWN if rule is None else FileClass.PLAIN
    return AuditedFile(
        place,
        path,
        name,
        size,
        file_class,
        identity=(core_class, words[0], words[1], words[2], fork),
        first_block=first_block,
        tablespace=tablespace if file_class is FileClass.RELATION else None,
        rule=rule,
    )


def unknown_file(file: AuditedFile) -> Finding:
    """Return the finding for a file that is neither encrypted nor plain by design."""
    if _COMPRESSED.fullmatch(file.name):
        problem = "is compressed, so what is in it was not judged"
        remedy = "Unpack it into a directory and audit that with --archive or --backup."
    elif file.name.endswith(".tar"):
        problem = "is a tar archive, so what is in it was not judged"
        remedy = "Unpack it into a directory and audit that with --backup."
    elif "INCREMENTAL." in file.name:
        problem = "is part of an incremental backup, so what is in it was not judged"
        remedy = "Combine the backups with pg_combinebackup and audit the result."
    else:
        problem = "is no file of PostgreSQL, and nobody encrypts it"
        remedy = "Move it out of this directory; if it holds data, keep it encrypted."
    return Finding(FindingKind.UNKNOWN_FILE, file.path, f"{file.path} {problem}", remedy)


def unreadable(path: Path, error: OSError) -> Finding:
    """Return the finding for what cannot be read."""
    return Finding(
        FindingKind.UNREADABLE,
        path,
        f"{path} cannot be read: {error.strerror}",
        "Run the audit as the owner of the data directory, or as root."
        if isinstance(error, PermissionError)
        else "Check the disk and the file system.",
    )


def _foreign_directory(path: Path) -> Finding:
    return Finding(
        FindingKind.UNKNOWN_FILE,
        path,
        f"{path} belongs to a server of another version, so what is in it was not judged",
        "If it is left over from an upgrade, remove it as pg_upgrade says; else audit its cluster.",
    )
