"""Repositories of pgBackRest: their stanzas, backups and archives, from their own lists.

A backup is a directory with ``backup.manifest``, which names each file of the data directory, where
its bytes are (a file of its own, a part of a bundle, or another backup), and their SHA-1.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tde.audit.findings import not_judged_finding
from tde.audit.inventory import AuditedFile, Content, Place, classify, tool_rule
from tde.audit.report import Finding, FindingKind
from tde.audit.unpacking import Compression, open_stored
from tde.errors import DataDirectoryError

#: The name of a backup.
LABEL = re.compile(r"\d{8}-\d{6}F(?:_\d{8}-\d{6}[DI])?")
#: The name of an archive. Before PostgreSQL 10 a major version had two numbers.
ARCHIVE_ID = re.compile(r"(\d+)(?:\.\d+)?-\d+")
#: What OpenSSL begins with, and pgBackRest with it, when a passphrase encrypts.
ENCRYPTED = b"Salted__"
#: The list of a backup.
MANIFEST = "backup.manifest"
_COMPRESSION = {
    "none": Compression.NONE,
    "gz": Compression.GZIP,
    "bz2": Compression.BZIP2,
    "lz4": Compression.LZ4,
    "zst": Compression.ZSTD,
}
_LISTS_OF_STANZA = {
    "backup": ("backup.info", "backup.info.copy", "backup.history", "latest"),
    "archive": ("archive.info", "archive.info.copy"),
}
_LONGEST_LIST = 1 << 30  # Bytes; a manifest has 200 for each file.
_WITH_ITS_OWN_TOOL = "Restore it with pgbackrest restore, and audit that with --backup."
_LOOK = "pgBackRest has not put it there, or was broken off: look at it, and remove it."


@dataclass(frozen=True)
class Stanza:
    """A stanza of a repository.

    Attributes:
        systems: the system identifiers that its servers have had; empty when it is encrypted.
    """

    name: str
    backup: Path
    archive: Path
    systems: frozenset[int]
    encrypted: bool

    def backups(self) -> list[Path]:
        """Return the directories of its backups, oldest first."""
        return [path for path in _directories(self.backup) if LABEL.fullmatch(path.name)]

    def archives(self) -> list[tuple[Path, int]]:
        """Return the directories of its archives, with the server's major version."""
        found = ((path, ARCHIVE_ID.fullmatch(path.name)) for path in _directories(self.archive))
        return [(path, int(match[1])) for path, match in found if match]

    def strays(self) -> list[Finding]:
        """Return what lies beside its backups and archives, which no list names."""
        known = set(self.backups()) | {path for path, _ in self.archives()}
        known |= {self.backup / name for name in _LISTS_OF_STANZA["backup"]}
        known |= {self.archive / name for name in _LISTS_OF_STANZA["archive"]}
        return [
            not_judged_finding(path, "is not in any list of pgBackRest, and was not judged", _LOOK)
            for directory in (self.backup, self.archive)
            if directory.is_dir()
            for path in sorted(directory.iterdir())
            if path not in known and not _is_empty(path)
        ]


def _is_empty(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink() and not any(path.iterdir())


def is_repository(directory: Path) -> bool:
    """Tell whether a directory is the repository of a pgBackRest."""
    return (directory / "archive").is_dir() and (directory / "backup").is_dir()


def is_backup(directory: Path) -> bool:
    """Tell whether a directory is one backup of a pgBackRest."""
    return LABEL.fullmatch(directory.name) is not None


def stanzas(repository: Path) -> list[Stanza]:
    """Return the stanzas of a repository.

    Raises:
        DataDirectoryError: the list of one is damaged.
    """
    names = {
        path.name for kind in ("archive", "backup") for path in _directories(repository / kind)
    }
    return [_stanza(repository, name) for name in sorted(names)]


def _stanza(repository: Path, name: str) -> Stanza:
    backup, archive = repository / "backup" / name, repository / "archive" / name
    systems: set[int] = set()
    encrypted = False
    for info in (backup / "backup.info", archive / "archive.info"):
        content = _list_of(info)
        encrypted = encrypted or content.startswith(ENCRYPTED)
        if not content.startswith(ENCRYPTED):
            with usable_list(info):
                history = parse(content, info).get("db:history", {}).values()
                # In archive.info the identifier is called db-id.
                systems |= {
                    int(entry.get("db-system-id", entry.get("db-id", 0))) for entry in history
                }
    return Stanza(name, backup, archive, frozenset(systems), encrypted)


def _list_of(path: Path) -> bytes:
    """Return a list or its copy, of which one is whole; nothing when there is none."""
    for file in (path, path.with_name(f"{path.name}.copy")):
        if file.exists():
            return content_of(file)
    return b""


def content_of(path: Path) -> bytes:
    """Return the bytes of a list.

    Raises:
        DataDirectoryError: it is too long.
        OSError: it cannot be read.
    """
    with open_stored(path) as file:
        content = file.read(_LONGEST_LIST + 1)
    if len(content) > _LONGEST_LIST:
        raise _unusable(path, "it is too long")
    return content


@contextmanager
def usable_list(path: Path) -> Iterator[None]:
    """Say which list is damaged, where what was read of it is not what pgBackRest writes.

    Raises:
        DataDirectoryError: it is.
    """
    try:
        yield
    except (AttributeError, LookupError, TypeError, ValueError, RecursionError) as error:
        raise _unusable(path, str(error)) from error


def _unusable(path: Path, why: str) -> DataDirectoryError:
    return DataDirectoryError(
        f"{path} is no list of pgBackRest: {why}",
        remedy="Look at it with pgbackrest info; name a whole repository.",
    )


def _directories(path: Path) -> list[Path]:
    if not path.is_dir():
        return []
    return sorted(entry for entry in path.iterdir() if entry.is_dir() and not entry.is_symlink())


def parse(content: bytes, path: Path) -> dict[str, dict[str, Any]]:
    """Return the sections of a list of pgBackRest, whose values are JSON.

    Raises:
        DataDirectoryError: it is something else.
    """
    sections: dict[str, dict[str, Any]] = {}
    section: dict[str, Any] = {}
    with usable_list(path):
        for line in content.decode("utf-8", "surrogateescape").split("\n"):
            if line.startswith("["):
                section = sections.setdefault(line[1:].removesuffix("]"), {})
            elif line:
                # A name may have an equals sign in it; a value that is an object begins with one.
                mark = "={" if "={" in line else "="
                name, _, value = line.partition(mark)
                section[name] = json.loads(mark[1:] + value)
    return sections


@dataclass(frozen=True)
class Manifest:
    """The list of one backup."""

    directory: Path
    sections: dict[str, dict[str, Any]]

    @property
    def files(self) -> dict[str, dict[str, Any]]:
        """What is known of each file, by its name in the backup (``pg_data/base/1/1247``)."""
        return self.sections.get("target:file", {})

    def stored(self, name: str) -> tuple[str, Path, Content]:
        """Return the backup that has the bytes of a file, where in it, and how they are stored.

        Raises:
            DataDirectoryError: it is not listed, or not as pgBackRest does it.
        """
        with usable_list(self.directory / MANIFEST):
            return self._stored(name)

    def _stored(self, name: str) -> tuple[str, Path, Content]:
        entry = self.files[name]
        label = str(entry.get("reference", self.directory.name))
        # Who may write the list could have others' files read, and what is a file of this backup.
        if "reference" in entry and not LABEL.fullmatch(label):
            raise ValueError(f"{label!r} is no backup")
        if ".." in Path(name).parts or Path(name).is_absolute() or "\0" in name:
            raise ValueError(f"{name!r} is no file of a backup")
        compression = _COMPRESSION[self.sections["backup:option"]["option-compress-type"]]
        size, sha1 = int(entry["size"]), str(entry.get("checksum", ""))
        if "bni" not in entry:
            ending = f".{compression.value}" if compression.value else ""
            ending = ".pgbi" if "bim" in entry else ending
            return label, Path(f"{name}{ending}"), Content(compression, size=size, sha1=sha1)
        raw = bool(self.sections["backup"].get("backup-bundle-raw"))
        if raw and compression is Compression.GZIP:
            compression = Compression.DEFLATE
        part = (int(entry.get("bno", 0)), int(entry.get("repo-size", size)))
        if min(part) < 0:
            raise ValueError(f"{name} has a place in a bundle that cannot be")
        return label, Path("bundle", str(int(entry["bni"]))), Content(compression, part, size, sha1)


def read_manifest(directory: Path) -> Manifest | Finding:
    """Return the list of a backup, or the finding that nobody can read it here.

    Raises:
        DataDirectoryError: it is damaged.
        OSError: it cannot be read.
    """
    path = directory / MANIFEST
    if not path.exists():
        return not_judged_finding(
            directory,
            "has no backup.manifest, so what is in it was not judged",
            "It is being made, or was broken off: let pgbackrest expire remove it, or repeat.",
        )
    return manifest_of(content_of(path), directory)


def manifest_of(content: bytes, directory: Path) -> Manifest | Finding:
    """Return what the list of a backup says, or the finding that nobody can read it here.

    Raises:
        DataDirectoryError: it is damaged.
    """
    if content.startswith(ENCRYPTED):
        return encrypted_finding(directory)
    return Manifest(directory, parse(content, directory / MANIFEST))


def encrypted_finding(directory: Path) -> Finding:
    """Return the finding for what pgBackRest has encrypted itself."""
    return not_judged_finding(
        directory,
        "is encrypted by pgBackRest (repo-cipher-type), so what is in it was not judged: only "
        "pgBackRest has the passphrase",
        _WITH_ITS_OWN_TOOL,
    )


def list_backup(place: Place) -> tuple[list[AuditedFile], list[Finding]]:
    """Return the files of a backup that are stored in it, and what is wrong with their list.

    Raises:
        DataDirectoryError: the list is damaged.
        OSError: it cannot be read.
    """
    manifest = read_manifest(place.root)
    if isinstance(manifest, Finding):
        return [], [manifest]
    with usable_list(place.root / MANIFEST):
        return _list_files(place, manifest)


def _list_files(place: Place, manifest: Manifest) -> tuple[list[AuditedFile], list[Finding]]:
    files: list[AuditedFile] = []
    findings: list[Finding] = []
    blocks = 0
    parts: dict[Path, list[tuple[int, int]]] = {}
    for name, entry in manifest.files.items():
        label, relative, content = manifest.stored(name)
        here, there = place.root / relative, place.root.parent / label / relative
        if content.part is not None and label == place.root.name:
            parts.setdefault(here, []).append(content.part)
        if not there.is_file():
            # Of an empty file there is nothing in a bundle.
            findings += [_missing(there, name)] if int(entry["size"]) else []
        elif "bim" in entry:
            blocks += label == place.root.name
        elif label == place.root.name or (content.part is None and here.is_file()):
            # With repo-hardlink, files of earlier backups are links here.
            files.append(_stored_file(place, name, here, content))
    if blocks:
        findings.append(_of_blocks(place.root, blocks))
    for bundle, listed in parts.items():
        findings += _gaps(bundle, listed)
    known = {*parts, *(place.root / manifest.stored(name)[1] for name in manifest.files)}
    strays = [path for path in _regular_files(place.root) if path not in known]
    if not (place.root / MANIFEST).exists():
        return [], []  # Expired meanwhile.
    lists = [path for path in strays if tool_rule(place, path.name)]
    files += [classify(place, path.name, path, path.stat().st_size) for path in lists]
    return files, findings + [_stray(path) for path in strays if path not in lists]


def _stored_file(place: Place, name: str, path: Path, content: Content) -> AuditedFile:
    size = content.part[1] if content.part else path.stat().st_size
    found = classify(place, name.removeprefix("pg_data/"), path, size)
    return replace(found, content=content, member=name if content.part else "")


def _regular_files(directory: Path) -> Iterator[Path]:
    for path in sorted(directory.rglob("*")):
        if path.is_file() and not path.is_symlink():
            yield path


def _gaps(bundle: Path, parts: list[tuple[int, int]]) -> Iterator[Finding]:
    """Yield findings for the bytes of a bundle that belong to no file of the list."""
    end = 0
    size = bundle.stat().st_size if bundle.exists() else 0
    for offset, length in [*sorted(parts), (size, 0)]:
        if offset > end:
            yield not_judged_finding(
                bundle,
                f"has bytes {end} to {offset - 1} that backup.manifest does not list, so they "
                "were not judged",
                _WITH_ITS_OWN_TOOL,
            )
        end = max(end, offset + length)


def _stray(path: Path) -> Finding:
    return Finding(
        FindingKind.UNKNOWN_FILE,
        path,
        f"{path} is not in backup.manifest, and was not judged",
        _LOOK,
    )


def _of_blocks(directory: Path, count: int) -> Finding:
    return not_judged_finding(
        directory,
        f"has {count:,} files that are stored as increments of blocks (repo-block), so what is in "
        "them was not judged",
        _WITH_ITS_OWN_TOOL,
    )


def _missing(path: Path, name: str) -> Finding:
    return Finding(
        FindingKind.DAMAGED,
        path,
        f"{path} is missing: backup.manifest lists {name} in it",
        "The backup cannot be restored whole: take another one.",
        member=name,
    )
