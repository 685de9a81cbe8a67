"""Is a backup of pgBackRest what it was when it was sealed? Its repository is read as it lies."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from tde.audit.backrest import Manifest, is_repository, read_manifest, usable_list
from tde.audit.unpacking import DamagedContent, unpacked
from tde.backup.backrest import LIST, SEGMENT
from tde.backup.reading import Reader, unusual
from tde.backup.seal import Seal
from tde.errors import BackupError


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


def label_of(seal: Seal) -> str:
    """Return pgBackRest's name of a backup."""
    return _directory_of(seal).name


def twins(repository: Path, seal: Seal) -> Iterator[str]:
    """Yield files that claim to be a sealed segment of WAL, by their names in the repository."""
    for name in seal.files:
        match = SEGMENT.fullmatch(PurePosixPath(name).name)
        if match is not None:
            for path in (repository / name).parent.glob(f"{match[1]}*"):
                found = SEGMENT.fullmatch(path.name)
                if found is not None:
                    yield str(path.relative_to(repository))


def manifest_problems(repository: Path, seal: Seal, reader: Reader) -> Iterator[str]:
    """Yield what is wrong with the files of a backup, whose list is proven."""
    directory = repository / _directory_of(seal)
    manifest = read_manifest(directory)
    if not isinstance(manifest, Manifest):
        yield f"{_directory_of(seal)} {manifest.problem.removeprefix(f'{directory} ')}"
        return
    blocks = 0
    with usable_list(directory / LIST):
        for name, entry in manifest.files.items():
            if "bim" in entry:
                blocks += 1
            elif int(entry["size"]):  # Of an empty file nothing is read.
                yield from _file_problems(repository, manifest, name, reader)
    if blocks:
        yield (
            f"{_directory_of(seal)} has {blocks:,} files that are stored as increments of blocks "
            "(repo-block), which were not compared: restore it, and audit that"
        )


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
            code = reader.hash_stream(stream, "sha1")
    except DamagedContent:
        code = ""
    if code != content.sha1:
        yield f"{shown} was altered" + ("" if content.part is None else f": {name} in it")


def _directory_of(seal: Seal) -> PurePosixPath:
    """Return where a backup is in the repository."""
    return next(PurePosixPath(name).parent for name in seal.files if name.endswith(f"/{LIST}"))
