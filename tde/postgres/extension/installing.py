"""Putting the SQL extension where a server finds it, and taking it away."""

from __future__ import annotations

import os
import shutil
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tde.errors import ExtensionError
from tde.postgres.extension.building import (
    LIBRARY,
    build_library,
    server_paths,
    source_directory,
)
from tde.postgres.facts import MAJOR_VERSIONS
from tde.postgres.server.binaries import PostgresBinaries

EXTENSIONS = ("tde", "tde_pgx")
_SUFFIXES = ("*.control", "*.sql")


@dataclass(frozen=True)
class InstalledExtension:
    """Where the extension is.

    Attributes:
        library: the file that the server loads.
        scripts: the directory of the control files and SQL scripts.
        is_complete: whether all files are there.
        settings: lines for postgresql.conf.
        statements: what makes the functions in a database.
    """

    library: Path
    scripts: Path
    is_complete: bool
    settings: tuple[str, ...]
    statements: tuple[str, ...]


def install_extension(
    binaries: PostgresBinaries, command: Path, directory: Path | None = None
) -> InstalledExtension:
    """Build the extension and install it.

    A server that has an earlier one loaded keeps it until it is started again.

    Args:
        command: absolute path of `tde`, which the server's user must be able to run.
        directory: of its own, for who may not write into the server's.

    Raises:
        ExtensionError: it cannot be built, or not be written.
    """
    found = find_extension(binaries, directory)
    with tempfile.TemporaryDirectory(prefix="tde-extension-") as temporary:
        # Built before anything is changed.
        library = build_library(binaries, command, Path(temporary))
        try:
            for place in (found.library.parent, found.scripts):
                if directory is not None:
                    place.mkdir(parents=True, exist_ok=True)
            _replace(found.library, library.read_bytes(), 0o755)
            for file in _files():
                _replace(found.scripts / file.name, _content(file, directory), 0o644)
        except OSError as error:
            raise ExtensionError(
                f"could not write {error.filename}: {error.strerror}",
                remedy="Give the command as the owner of that directory (root), or name another "
                "place with --directory.",
            ) from error
    return find_extension(binaries, directory)


def remove_extension(
    binaries: PostgresBinaries, directory: Path | None = None
) -> InstalledExtension:
    """Remove the files; a database that has the extension keeps its functions, which then fail.

    Raises:
        ExtensionError: they cannot be removed.
    """
    found = find_extension(binaries, directory)
    try:
        for path in (found.library, *(found.scripts / file.name for file in _files())):
            path.unlink(missing_ok=True)
    except OSError as error:
        raise ExtensionError(
            f"could not remove {error.filename}: {error.strerror}",
            remedy="Give the command as the owner of that directory.",
        ) from error
    return find_extension(binaries, directory)


def find_extension(binaries: PostgresBinaries, directory: Path | None = None) -> InstalledExtension:
    """Say where the extension of an installation is, or would be.

    Raises:
        ExtensionError: the installation does not say where its directories are.
    """
    if directory is None:
        paths = server_paths(binaries)
        libraries, scripts = paths.libraries, paths.scripts
        settings = ["shared_preload_libraries = 'tde'"]
    else:
        directory = directory.absolute()
        libraries, scripts = directory / "lib", directory / "share" / "extension"
        settings = [
            f"dynamic_library_path = '{libraries}:$libdir'",
            "shared_preload_libraries = 'tde'",
        ]
    statements = ["CREATE EXTENSION tde"]
    looks_elsewhere = "extension_control_path" in MAJOR_VERSIONS[binaries.major].settings
    if directory is not None and looks_elsewhere:
        settings.append(f"extension_control_path = '{directory / 'share'}:$system'")
    elif directory is not None:
        # These versions look for extensions in one directory only; functions need none.
        statements = [rf"\i {scripts / 'tde.sql'}"]
    library = libraries / LIBRARY
    wanted = [library, *(scripts / file.name for file in _files())]
    return InstalledExtension(
        library,
        scripts,
        all(path.is_file() for path in wanted),
        tuple(settings),
        tuple(statements),
    )


def _files() -> list[Path]:
    source = source_directory() / "extension"
    return sorted(path for suffix in _SUFFIXES for path in source.glob(suffix))


def _content(file: Path, directory: Path | None) -> bytes:
    text = file.read_text(encoding="utf-8")
    if directory is not None and file.suffix == ".control":
        # Found by dynamic_library_path, like what is preloaded: a library counts once.
        text = text.replace("$libdir/", "")
    return text.encode()


def write_plain_scripts(found: InstalledExtension) -> None:
    """Write scripts for psql, where the server does not look for extensions in other directories.

    Raises:
        OSError: they cannot be written.
    """
    for name in EXTENSIONS:
        (script,) = (path for path in _files() if path.name.startswith(f"{name}--"))
        lines = script.read_text(encoding="utf-8").splitlines(keepends=True)
        text = "".join(line for line in lines if not line.startswith("\\echo"))
        library = str(found.library.with_suffix(""))
        content = "BEGIN;\n" + text.replace("MODULE_PATHNAME", library) + "COMMIT;\n"
        _replace(found.scripts / f"{name}.sql", content.encode(), 0o644)


def _replace(path: Path, content: bytes, mode: int) -> None:
    """Exchange a file as a whole: servers map the library, and must not see it change."""
    fd, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(content)
            os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        with suppress(FileNotFoundError):
            Path(temporary).unlink()
        raise


def command_path() -> Path:
    """Return the absolute path of the command `tde`, as this process was started with.

    Raises:
        ExtensionError: it is not known.
    """
    import sys

    for candidate in (Path(sys.argv[0]), Path(sys.executable).with_name("tde")):
        if candidate.name == "tde" and candidate.is_file():
            return candidate.absolute()
    found = shutil.which("tde")
    if found is None:
        raise ExtensionError(
            "the path of the command tde is not known", remedy="Name it with --command."
        )
    return Path(found).absolute()
