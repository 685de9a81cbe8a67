"""Building the SQL extension on the machine of its server, against that server's headers.

It is C code that a server loads, so it fits one major version and one build of PostgreSQL. The
package brings its sources along; a compiler and the server's headers come from the machine.
"""

from __future__ import annotations

import importlib.resources
import os
import shlex
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tde.errors import ExtensionError
from tde.postgres.server.binaries import PostgresBinaries

LIBRARY = "tde.so"
_SOURCES = "extension_sources"


@dataclass(frozen=True)
class ServerPaths:
    """Where an installation has its headers and its extensions.

    Attributes:
        headers: for C code of the server.
        libraries: ``$libdir``.
        scripts: control files and SQL scripts.
    """

    headers: Path
    libraries: Path
    scripts: Path


def server_paths(binaries: PostgresBinaries) -> ServerPaths:
    """Ask an installation for its directories.

    Raises:
        ExtensionError: it has no pg_config, which packages of distributions bring with the headers.
    """
    program = binaries.bindir / "pg_config"
    if not program.is_file():
        raise ExtensionError(
            f"there is no pg_config in {binaries.bindir}", remedy=_packages(binaries.major)
        )
    options = ("--includedir-server", "--pkglibdir", "--sharedir")
    try:
        made = subprocess.run(
            [program, *options], capture_output=True, text=True, check=True, timeout=60
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise ExtensionError(f"{program} failed: {error}") from error
    headers, libraries, share = (Path(line) for line in made.stdout.splitlines())
    return ServerPaths(headers, libraries, share / "extension")


def source_directory() -> Path:
    """Return the directory of the extension's sources.

    Raises:
        ExtensionError: the package was installed without them.
    """
    path = Path(str(importlib.resources.files("tde").joinpath(_SOURCES)))
    if not (path / "extension" / "tde.c").is_file():
        raise ExtensionError(
            f"the sources of the extension are not in {path}",
            remedy="Reinstall tde; in a source checkout run: make build",
        )
    return path


def build_library(binaries: PostgresBinaries, command: Path, directory: Path) -> Path:
    """Compile the library into a directory and return its path.

    Args:
        command: absolute path of the command `tde` that it runs.

    Raises:
        ExtensionError: headers or compiler are missing, or the compiler fails.
    """
    paths = server_paths(binaries)
    if not (paths.headers / "postgres.h").is_file():
        raise ExtensionError(
            f"there are no headers of PostgreSQL {binaries.major} in {paths.headers}",
            remedy=_packages(binaries.major),
        )
    sources = source_directory()
    library = directory / LIBRARY
    arguments = [
        # No symbol is hidden: headers of version 15 do not mark those that the server needs.
        *(*_compiler(), "-std=gnu11", "-O2", "-g", "-fPIC", "-shared", "-Wl,-Bsymbolic"),
        *("-Wall", "-Wextra", "-Wshadow", "-fno-strict-aliasing", "-fwrapv", "-D_GNU_SOURCE"),
        *(f"-DTDE_COMMAND={_c_string(str(command))}", f"-I{sources}"),
        # Its headers' warnings are not ours.
        *("-isystem", str(paths.headers), "-Wl,-z,now", "-Wl,-z,relro", "-o", str(library)),
        *(str(path) for path in sorted((sources / "extension").glob("*.c"))),
    ]
    try:
        made = subprocess.run(arguments, capture_output=True, text=True, timeout=600)
    except OSError as error:
        raise ExtensionError(
            f"the compiler {arguments[0]} cannot be run: {error.strerror}", remedy=_NO_COMPILER
        ) from error
    if made.returncode != 0:
        raise ExtensionError(
            f"the compiler failed: {shlex.join(arguments)}\n{made.stderr.strip()}",
            remedy="Where the headers are of another release than the server, update both.",
        )
    return library


_NO_COMPILER = "Install one (Debian: apt-get install gcc libc6-dev), or name it in CC."


def _packages(major: int) -> str:
    return (
        f"Debian, Ubuntu: apt-get install postgresql-server-dev-{major}. RHEL: dnf install "
        f"postgresql{major}-devel. Or name another installation with --bindir."
    )


def _compiler() -> list[str]:
    named = shlex.split(os.environ.get("CC", ""))
    if named:
        return named
    for name in ("cc", "gcc", "clang"):
        if shutil.which(name):
            return [name]
    raise ExtensionError("there is no C compiler on this machine", remedy=_NO_COMPILER)


def _c_string(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
