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
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

from tde import _core
from tde.audit.report import FileClass, Finding, FindingKind
from tde.audit.tar import TarArchive
from tde.audit.unpacking import ENDINGS, Compression, compression_of
from tde.page.identity import CoreIdentity
from tde.postgres.cluster.links import (
    DirectoryId,
    directory_id,
    is_link_of_cluster,
    linked_directories,
    tablespace_oids,
)
from tde.postgres.cluster.plain_files import PlainRule, plain_rule
from tde.postgres.facts import BUILT_IN_TABLESPACES, PG_GLOBAL_OID
from tde.postgres.server.control import ControlData

_CLASSES = {
    _core.CLASS_RELATION: FileClass.RELATION,
    _core.CLASS_TEMP_RELATION: FileClass.RELATION,
    _core.CLASS_WAL: FileClass.WAL,
    _core.CLASS_EPHEMERAL: FileClass.EPHEMERAL,
}
# A segment under a name of its own: a copy that is still being made, or one that was kept.
_SEGMENT_COPY = re.compile(r"([0-9A-F]{24})\.(?!gz$|bz2$|xz$|lz4$|zst$|[0-9A-F]{8}\.backup$)\w+")
_COMPRESSED = re.compile(rf".*\.(?:{ENDINGS}|tgz)")
# A segment in an archive of pg_receivewal, pgBackRest or Barman.  pgBackRest adds the SHA-1 of what
# it was given; one that is not complete yet, or never will be, is ".partial".
_ARCHIVED_SEGMENT = re.compile(
    r"(?P<name>[0-9A-F]{24})(?P<partial>\.partial)?(?:-(?P<sha1>[0-9a-f]{40}))?"
    rf"(?:\.(?P<ending>{ENDINGS}))?(?P<growing>\.partial|\.pgbackrest\.tmp)?"
)

# Barman names the list of segments after the server, from 3.13 on.
_LISTS = re.compile(r"backup\.manifest(\.copy)?|backup\.info|(.+-)?xlog\.db")
TOOL_FILES = PlainRule(
    "`backup.manifest`, `backup.info`, `xlog.db`, `*-xlog.db`",
    "pgBackRest's and Barman's lists of what they have stored: names, sizes, checksums, times",
    False,
)


class Layout(Enum):
    """How the files of a place are stored."""

    FILES = "files"
    TAR = "tar archives"
    BACKREST = "a backup of pgBackRest"


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
        layout: how the files are stored.
        facts: where copies of the key map and other plain files are, if not in ``root``.
        tablespaces: directories of tablespaces to which no link leads, by OID.
        tars: the archives, for the layout of tar.
    """

    kind: PlaceKind
    root: Path
    major: int
    control: ControlData
    replay_pending: bool
    live: bool
    layout: Layout = Layout.FILES
    facts: Path | None = field(default=None, compare=False)
    tablespaces: tuple[tuple[int, Path], ...] = field(default=(), compare=False)
    tars: tuple[TarArchive, ...] = field(default=(), compare=False)

    @property
    def home(self) -> Path:
        """Where the key map of the place is, as a file."""
        return self.facts or self.root

    def tablespace_oids(self) -> list[int]:
        """Return the OIDs of the tablespaces that users have made."""
        return sorted({*tablespace_oids(self.home), *(oid for oid, _ in self.tablespaces)})

    def tablespace_directory(self, oid: int) -> Path:
        """Return where the files of a tablespace are, for people."""
        if oid in BUILT_IN_TABLESPACES:
            return self.root / ("global" if oid == PG_GLOBAL_OID else "base")
        if (directory := dict(self.tablespaces).get(oid)) is not None:
            return directory
        return (self.root / "pg_tblspc" / str(oid)).resolve()

    @property
    def label(self) -> str:
        """The name of the place in tables."""
        return "cluster" if self.kind is PlaceKind.CLUSTER else f"{self.kind.value} {self.root}"


@dataclass(frozen=True)
class Content:
    """How the bytes of a file are stored, when they are not simply there under its name.

    Attributes:
        part: offset and length of the stored bytes, if they are a part of a file.
        size: of what is stored, in bytes; ``None`` when it is not known.
        sha1: what it has been, in hexadecimal; empty when it is not known.
        may_end_early: whether the file may be one that is still being made.
        addressable: whether its beginning can be found without reading what is in front of it.
    """

    compression: Compression
    part: tuple[int, int] | None = None
    size: int | None = None
    sha1: str = ""
    may_end_early: bool = False
    addressable: bool = True


@dataclass(frozen=True)
class AuditedFile:
    """One file and what its name says.

    Attributes:
        name: path relative to the place.
        identity: of the blocks, as :mod:`tde._core` takes it; only for relations and WAL.
        first_block: number of the file's first block in its fork.
        tablespace: OID, for relations.
        rule: for files that are plain by design.
        content: how the bytes are stored, when they are compressed or part of a file.
        member: the name in the archive or bundle ``path``.
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
    content: Content | None = None
    member: str = ""

    @property
    def label(self) -> str:
        """What people call it."""
        return f"{self.path} ({self.member})" if self.member else str(self.path)


def list_files(place: Place) -> tuple[list[AuditedFile], list[Finding]]:
    """Return the regular files below a place, and what cannot be looked at."""
    files: list[AuditedFile] = []
    findings: list[Finding] = []
    # What they lead to is judged by the names that the server knows.
    linked = frozenset() if place.kind is PlaceKind.ARCHIVE else linked_directories(place.root)
    seen: set[DirectoryId] = set()
    roots = [("", place.root)]
    roots += [(f"pg_tblspc/{oid}/", directory) for oid, directory in place.tablespaces]
    for prefix, root in roots:
        with suppress(OSError):
            if prefix and directory_id(root.stat()) in seen:
                continue  # A link has led there.
        for name, path, size in _walk(place, root, prefix, seen, linked, findings):
            files.append(classify(place, name, path, size))
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


def classify(place: Place, name: str, path: Path, size: int) -> AuditedFile:
    """Return what the file of a name should be; in an archive that is the name of ``path``."""
    segment, content = "", None
    if place.kind is PlaceKind.ARCHIVE:
        segment, content = _archived_segment(place, path, size)
    core_class, tablespace, *words, fork, first_block, _ = _core.parse_path(segment or name)
    file_class = _CLASSES.get(core_class, FileClass.PLAIN)
    if name == "pg_wal/RECOVERYXLOG":
        # A segment on its way from the archive, whose name only the server knows.
        file_class = FileClass.EPHEMERAL
    if place.kind is PlaceKind.ARCHIVE and file_class is not FileClass.WAL:
        file_class = FileClass.PLAIN
    rule = None
    if file_class is FileClass.PLAIN:
        rule = plain_rule(name) or tool_rule(place, name)
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
        content=content,
    )


def _archived_segment(place: Place, path: Path, size: int) -> tuple[str, Content | None]:
    """Return the name of the segment that a file of an archive holds, and how it is stored."""
    if copy := _SEGMENT_COPY.fullmatch(path.name):
        return copy.group(1), None
    found = _ARCHIVED_SEGMENT.fullmatch(path.name)
    if found is None:
        return "", None
    compression = Compression(found["ending"] or "")
    whole = place.control.wal_segment_bytes
    if not found["ending"] and size not in (0, whole):
        # Barman compresses segments and lets them keep their names.  It may be gone meanwhile.
        with suppress(OSError):
            compression = compression_of(path)
    if compression is Compression.NONE and not found["sha1"]:
        return found["name"], None
    partial = bool(found["partial"] or found["growing"])
    content = Content(
        compression,
        size=None if partial else whole,
        sha1=found["sha1"] or "",
        may_end_early=bool(found["growing"]),
    )
    return found["name"], content


def tool_rule(place: Place, name: str) -> PlainRule | None:
    """Return the rule for the lists that backup tools keep beside what they have stored."""
    is_list = place.kind is not PlaceKind.CLUSTER and _LISTS.fullmatch(Path(name).name)
    return TOOL_FILES if is_list else None


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
    return Finding(
        FindingKind.UNKNOWN_FILE, file.path, f"{file.label} {problem}", remedy, member=file.member
    )


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
