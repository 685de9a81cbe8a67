"""Is a backup of pgBackRest what it was when it was sealed? Its repository is read as it lies."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from tde.audit.backrest import (
    ENCRYPTED,
    MANIFEST,
    Manifest,
    content_of,
    is_repository,
    manifest_of,
    usable_list,
)
from tde.audit.unpacking import Compression, DamagedContent, unpacked
from tde.backup.backrest_tool import SEGMENT
from tde.backup.reading import Reader, unusual
from tde.backup.seal import Seal
from tde.errors import BackupError, DataDirectoryError

_LONGEST_SEGMENT = 1 << 30


def require_repository(directory: Path) -> None:
    """Check that a directory is a repository.

    Raises:
        BackupError: it is not.
    """
    if not is_repository(directory):
        raise BackupError(
            f"{directory} is no repository of pgBackRest, in which this backup is",
            remedy="Name the directory of repo1-path. If that is on another host or in a cloud, "
            "mount or copy it.",
        )


def twins(repository: Path, seal: Seal) -> Iterator[str]:
    """Yield files that claim to be a sealed segment of WAL, by their names in the repository.

    pgBackRest takes the archive that its own lists name, which nobody has proven; so all of the
    stanza are looked at.
    """
    for name in seal.files:
        path = PurePosixPath(name)
        match = SEGMENT.fullmatch(path.name)
        if match is not None:
            archives = repository / path.parents[2]
            for found in archives.glob(f"*/*/{match['name']}*"):
                claimed = SEGMENT.fullmatch(found.name)
                if claimed is not None:
                    yield str(found.relative_to(repository))


def backup_problems(
    repository: Path, seal: Seal, reader: Reader, not_compared: list[str]
) -> Iterator[str]:
    """Yield what is wrong with a backup whose sealed files are what they were.

    Args:
        not_compared: gets what cannot be read here.

    Raises:
        DataDirectoryError: the list is damaged.
        OSError: a file cannot be read.
    """
    for name in seal.files:
        match = SEGMENT.fullmatch(PurePosixPath(name).name)
        if match is not None:
            yield from _segment_problems(repository, name, match["sha1"], reader)
    name = next(name for name in seal.files if name.endswith(f"/{MANIFEST}"))
    directory = repository / PurePosixPath(name).parent
    content = content_of(directory / MANIFEST)
    # Read a second time: who was asked twice may have answered twice.
    if hashlib.sha256(content).hexdigest() != seal.files[name]:
        yield f"{name} was altered"
        return
    manifest = manifest_of(content, directory)
    if not isinstance(manifest, Manifest):
        not_compared.append(str(manifest.problem).replace(f"{repository}/", ""))
        return
    blocks = 0
    with usable_list(directory / MANIFEST):
        for file, entry in manifest.files.items():
            if "bim" in entry:
                blocks += 1
            elif int(entry["size"]):  # Of an empty file nothing is read.
                yield from _file_problems(repository, manifest, file, reader)
    if blocks:
        not_compared.append(
            f"{blocks:,} files that are stored as increments of blocks (repo-block): restore the "
            "backup, and audit that"
        )


def _segment_problems(repository: Path, name: str, sha1: str, reader: Reader) -> Iterator[str]:
    ending = PurePosixPath(name).suffix.removeprefix(".")
    try:
        with unpacked(repository / name, Compression(ending)) as stream:
            code = reader.hash_stream(stream, "sha1", _LONGEST_SEGMENT)
    except DamagedContent:
        code = ""  # Or pgBackRest has encrypted it.
    except ValueError as error:
        raise DataDirectoryError(f"{name} is compressed in an unknown way") from error
    if code != sha1 and not _is_encrypted(repository / name):
        yield f"{name} is not what its name tells"


def _is_encrypted(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(ENCRYPTED)) == ENCRYPTED


def _file_problems(
    repository: Path, manifest: Manifest, name: str, reader: Reader
) -> Iterator[str]:
    label, relative, content = manifest.stored(name)
    path = manifest.directory.parent / label / relative
    shown = str(path.relative_to(repository))
    why = unusual(repository, shown)
    if why is not None:
        yield f"{shown} {why}"
        return
    try:
        with unpacked(path, content.compression, content.part) as stream:
            code = reader.hash_stream(stream, "sha1", content.size)
    except DamagedContent:
        code = ""
    if code != content.sha1:
        yield f"{shown} was altered" + ("" if content.part is None else f": {name} in it")
