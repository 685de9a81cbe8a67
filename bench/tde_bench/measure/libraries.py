"""The libcryptos of a run, and the openssl program with each of them.

Where the system's OpenSSL is old, tde encrypts pages with a second one beside it. The limit of what
a library can do is only its own: so ``openssl speed`` has to work with the library that did the
work it is compared with, which may not be the one that the program is linked with.
"""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tde import _core
from tde.page.libcrypto import SYSTEM, VARIABLE, choose_libcrypto, find_libcrypto
from tde.postgres.server.library_in_use import version_in
from tde_bench.errors import BenchError

# The names of libraries in raw results: the system's, as TDE_LIBCRYPTO=system has it, or this.
SECOND = "second"

# What programs of OpenSSL 3 and 4 need; the soname of a wheel's copy is another.
_NEEDED = ("libcrypto.so.3", "libcrypto.so.4")
_LIBRARY = re.compile(r"\(Library: ([^()]+)\)")
_DEADLINE_SECONDS = 20
_REMEDY = f"Put that library's openssl program first in PATH, or set {VARIABLE}={SYSTEM}."


@dataclass(frozen=True)
class Library:
    """A libcrypto.

    Attributes:
        version: what it says of itself, for example ``OpenSSL 3.5.8 25 Aug 2026``.
        path: its file; None where that is not known.
    """

    version: str
    path: Path | None = None

    @property
    def release(self) -> str:
        """The version without the date, which differs between builds of the same release."""
        return release_of(self.version)

    @property
    def number(self) -> str:
        """The release as a table shows it, for example ``3.5.8``."""
        return self.release.removeprefix("OpenSSL ")


@dataclass(frozen=True)
class SpeedProgram:
    """The openssl program, working with one library.

    Attributes:
        version: what it says of itself and of the library.
        environment: the variables that it needs for that.
    """

    path: Path
    version: str
    environment: Mapping[str, str]


def release_of(version: str) -> str:
    """Return ``OpenSSL 3.5.8`` of a longer text."""
    return " ".join(version.split()[:2])


def known_libraries() -> dict[str, Library]:
    """Return the libraries of this process by name; the last one is what tde encrypts pages with.

    Where tde has chosen no other, or one of the same release, there is only the system's.
    """
    choose_libcrypto()
    linked, chosen = _core.linked_openssl_version(), _core.openssl_version()
    found = {SYSTEM: Library(linked, _mapped(linked))}
    if release_of(chosen) != release_of(linked):
        found[SECOND] = Library(chosen, find_libcrypto())
    return found


def used_library() -> Library:
    """Return the library that encrypts pages in this process."""
    return list(known_libraries().values())[-1]


def library_of_release(version: str) -> Library:
    """Return that library of this process which a server says it uses.

    Only those are ever loaded: the path is what a server's user says, and root may run this.

    Raises:
        BenchError: it is neither of them.
    """
    known = list(known_libraries().values())
    for library in known:
        if library.release == release_of(version):
            return library
    names = " or ".join(library.version for library in known)
    raise BenchError(f"{version} is not at hand here; what is: {names}")


@functools.cache
def _mapped(version: str) -> Path | None:
    """Return the file of a libcrypto that this process has loaded; it has several."""
    lines = Path("/proc/self/maps").read_text(errors="replace").splitlines()
    paths = {line.split(maxsplit=5)[5] for line in lines if len(line.split(maxsplit=5)) == 6}
    for path in sorted(map(Path, paths)):
        if path.name.startswith("libcrypto") and path.is_file() and version_in(path) == version:
            return path
    return None


def find_openssl() -> Path | None:
    """Return the openssl program, None when the machine has none."""
    found = shutil.which("openssl")
    return None if found is None else Path(found)


@contextmanager
def speed_program(openssl: Path, library: Library) -> Iterator[SpeedProgram]:
    """Make the openssl program work with a library for the time of a ``with`` block.

    Where it is not linked with that one, a private directory has a link to it under the name that
    the program needs. What the program then says of its library is believed, and nothing else.

    Raises:
        BenchError: it works with another library all the same.
    """
    said = run_openssl(openssl, ["version"], {})
    if release_used(said) == library.release:
        yield SpeedProgram(openssl, said, {})
        return
    if library.path is None:
        raise BenchError(
            f"{openssl} works with {said}, and the file of {library.version} is not known",
            remedy=_REMEDY,
        )
    with tempfile.TemporaryDirectory(prefix="tde-bench-libcrypto-") as folder:
        for name in _NEEDED:
            (Path(folder) / name).symlink_to(library.path.absolute())
        before = os.environ.get("LD_LIBRARY_PATH")
        environment = {
            "LD_LIBRARY_PATH": f"{folder}:{before}" if before else folder,
            # That of the machine which built the library may lie where anybody can write. tde
            # reads none with a second library either.
            "OPENSSL_CONF": os.devnull,
        }
        said = run_openssl(openssl, ["version"], environment)
        if release_used(said) != library.release:
            raise BenchError(
                f"{openssl} does not work with {library.path} but says: {said}", remedy=_REMEDY
            )
        yield SpeedProgram(openssl, said, environment)


def release_used(said: str) -> str:
    """Return the release of the library in what ``openssl version`` says.

    An old program names only one release, its own.
    """
    found = _LIBRARY.search(said)
    return release_of(said if found is None else found[1])


def run_openssl(openssl: Path, arguments: list[str], environment: Mapping[str, str]) -> str:
    """Return what the program says.

    Raises:
        BenchError: it does not run, or fails.
    """
    try:
        completed = subprocess.run(
            [openssl, *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            env={**os.environ, **environment},
            timeout=_DEADLINE_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BenchError(f"{openssl} does not run: {error}") from error
    said = completed.stdout.strip() or completed.stderr.strip()
    if completed.returncode != 0:
        raise BenchError(f"{openssl} does not run: {said}")
    return said
