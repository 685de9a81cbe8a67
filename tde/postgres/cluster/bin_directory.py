"""A directory that stands for PostgreSQL's `bin`: its programs work on encrypted clusters.

Programs that see encrypted files, or start others that do, are copies of one small C program
(c_ext/program/main.c), which hands over the keys and executes PostgreSQL's own. All others are
links. Init scripts, cluster managers and test suites use the directory as they would use
PostgreSQL's own; that works without a passphrase, so the keystore must open by itself: by
auto-open.key, which needs no Python, or by a provider, for which the programs run `tde`.
"""

from __future__ import annotations

import importlib.resources
import os
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tde.algorithms import Algorithm
from tde.errors import ClusterKeystoreError, InterposerError, KeystoreMissingError, TdeError
from tde.ownership import create_parents
from tde.postgres.cluster.guard import GUARD_SECTION
from tde.postgres.cluster.keys import create_initial_keys
from tde.postgres.cluster.keystore_place import require_keystore_access
from tde.postgres.cluster.log_settings import LOG_SECTION
from tde.postgres.cluster.marker import MARKER_FILE, Marker
from tde.postgres.cluster.scope import Scope
from tde.postgres.server.binaries import STAND_IN_SETTINGS, PostgresBinaries
from tde.postgres.server.build import require_supported_build
from tde.postgres.server.interposer import INTERPOSER_NAME, find_interposer
from tde.postgres.server.os_user import OsUser, require_reachable, run_as
from tde.postgres.server.reachable import (
    LIBCRYPTO_NAME,
    is_unfinished,
    reachable_binaries,
    read_libcrypto,
    replace_readable_file,
)

if TYPE_CHECKING:
    from tde.keystore import Keystore

_PROGRAM_FILE = "tde_program"
_SYMBOLS_FILE = "server-symbols"
_GUARD_TEXT = "guard.conf"
_LOG_TEXT = "log.conf"

# Those that the C program knows how to treat (c_ext/program/arguments.c).
PROGRAMS_WITH_KEYS = (
    "initdb",
    "pg_basebackup",
    "pg_checksums",
    "pg_checksums_ext",  # In Debian's postgresql-NN-pg-checksums.
    "pg_combinebackup",  # No keys: the interposer compares the key maps of the backups.
    "pg_controldata",  # No keys: the interposer shows it the true state.
    "pg_createsubscriber",
    "pg_ctl",
    "pg_receivewal",
    "pg_resetwal",
    "pg_rewind",
    "pg_upgrade",
    "pg_verifybackup",
    "pg_waldump",
    "postgres",
    "postmaster",
    "repmgr",  # No keys: it reads the state in pg_control itself.
)


# PostgreSQL's other programs, which see no encrypted file and start none that does. What is not
# here belongs to an extension, and may look for those above beside itself.
_PROGRAMS_WITHOUT_KEYS = frozenset(
    {
        *("clusterdb", "createdb", "createuser", "dropdb", "dropuser", "ecpg", "oid2name"),
        *("pg_amcheck", "pg_archivecleanup", "pg_config", "pg_dump", "pg_dumpall", "pg_isready"),
        *("pg_recvlogical", "pg_restore", "pg_test_fsync", "pg_test_timing", "pg_walsummary"),
        *("pgbench", "psql", "reindexdb", "vacuumdb", "vacuumlo"),
    }
)


@dataclass(frozen=True)
class BinDirectory:
    """What was installed.

    Attributes:
        path: the directory.
        bindir: where PostgreSQL's own programs are.
        keystore: opened by itself for encrypted clusters; ``None`` when all are plain.
        with_keys: names of the programs that get keys, or only the interposer, when they need it.
        linked: names of the programs that are PostgreSQL's own.
    """

    path: Path
    bindir: Path
    keystore: Path | None
    with_keys: tuple[str, ...]
    linked: tuple[str, ...]


def install_bin_directory(
    directory: Path,
    binaries: PostgresBinaries,
    os_user: OsUser | None,
    *,
    keystore: Keystore | None,
    algorithm: Algorithm = Algorithm.AES256,
    scope: Scope = Scope.CLUSTER,
    checksums: bool = True,
) -> BinDirectory:
    """Make the directory, or bring an existing one up to date.

    Every cluster that its initdb makes uses the keys of the one keystore, which are made here
    if it has none. Clusters that share keys should belong together, as a primary and its
    standbys do: see docs/threat-model.md.

    Args:
        directory: new, empty, or made by this function before.
        binaries: the installation that the programs stand for.
        os_user: the user that runs servers, when root installs for it.
        keystore: open, with auto-open enabled; ``None`` makes a directory for plain clusters. One
            that has no keys yet must have been opened by its passphrase.
        algorithm: for the keys, when the keystore has none yet.
        scope: of the clusters that initdb makes.
        checksums: whether initdb turns data checksums on, unless it is told otherwise.

    Raises:
        TdeError: the directory holds something else.
        ClusterKeystoreError: the keystore does not open by itself, or is another user's.
        UnsupportedServerError: the server cannot be encrypted.
        InterposerError: the C programs were not built.
        UnreachablePathError: the server's user cannot get at the directory or the programs.
    """
    directory = directory.absolute()
    _require_ours(directory)
    usable = reachable_binaries(binaries, os_user)
    if keystore is not None:
        require_supported_build(usable, os_user)
        require_keystore_access(keystore.path, os_user)
        tde = _require_auto_open(keystore, os_user)
        _ensure_keys(keystore, scope, algorithm)
    create_parents(directory, None)
    directory.mkdir(exist_ok=True)
    directory.chmod(0o755)
    if keystore is not None:
        _write_settings(directory, usable, keystore, scope, tde, checksums)
    opened = None if keystore is None else keystore.path
    made = _write_programs(directory, usable.bindir, opened)
    require_reachable(os_user, directory / "postgres", "the directory of the programs")
    return made


def refresh_bin_directory(directory: Path) -> BinDirectory:
    """Bring the programs of a directory up to date with this release of tde, as an upgrade does.

    It keeps its settings, and opens no keystore. Running servers keep the library that they have
    until their next start.

    Args:
        directory: made by :func:`install_bin_directory` for encrypted clusters, and writable by
            nobody whom the caller does not trust.

    Raises:
        TdeError: it is no such directory, or PostgreSQL's own programs are gone.
        InterposerError: the C programs were not built.
    """
    settings = _read_settings(directory)
    bindir, keystore = Path(settings["bindir"]), Path(settings["keystore"])
    if not (bindir / "postgres").is_file():
        raise TdeError(
            f"{directory} stands for {bindir}, where there is no PostgreSQL any more",
            remedy="Install that PostgreSQL again, or take it back, as it was registered: "
            f"tde pg unregister {directory.name}",
        )
    return _write_programs(directory, bindir, keystore)


def _read_settings(directory: Path) -> dict[str, str]:
    try:
        lines = (directory / STAND_IN_SETTINGS).read_text().splitlines()
    except FileNotFoundError:
        lines = []
    settings = {name: value for name, _, value in (line.partition("=") for line in lines)}
    if not {"bindir", "keystore"} <= settings.keys():
        raise TdeError(
            f"{directory} was not made for encrypted clusters by tde",
            remedy="Make it: tde pg install-bin DIR --keystore DIR",
        )
    return settings


def _write_programs(directory: Path, bindir: Path, keystore: Path | None) -> BinDirectory:
    """Write what belongs to this release of tde, the programs last, which need the rest."""
    names = sorted(path.name for path in bindir.iterdir() if os.access(path, os.X_OK))
    with_keys = tuple(name for name in names if keystore and _is_stood_in(bindir / name))
    if keystore is not None:
        _write_texts(directory)
    program = _program().read_bytes() if with_keys else b""
    for name in names:
        if name in with_keys:
            replace_readable_file(directory / name, program, 0o755)
        else:
            _link(bindir / name, directory / name)
    linked = tuple(name for name in names if name not in with_keys)
    return BinDirectory(directory, bindir, keystore, with_keys, linked)


def is_bin_directory(directory: Path) -> bool:
    """Tell whether a directory was made by :func:`install_bin_directory` for encrypted clusters."""
    return (directory / STAND_IN_SETTINGS).is_file()


def remove_bin_directory(directory: Path) -> None:
    """Remove a directory that nobody else can write to; repeat it when it was interrupted.

    What tells that it is tde's goes last, so what is left of it can be removed or made whole.
    """
    with suppress(FileNotFoundError):
        for path in directory.iterdir():
            if path.name != STAND_IN_SETTINGS:
                path.unlink()
        (directory / STAND_IN_SETTINGS).unlink(missing_ok=True)
        directory.rmdir()


def _require_ours(directory: Path) -> None:
    if not directory.exists():
        return
    if not directory.is_dir():
        raise TdeError(f"{directory} exists and is not a directory")
    # The first file that is written may have been interrupted, before it had its name.
    entries = [path for path in directory.iterdir() if not is_unfinished(path)]
    ours = is_bin_directory(directory) or all(entry.is_symlink() for entry in entries)
    if entries and not ours:
        raise TdeError(
            f"{directory} is not empty and was not made by tde",
            remedy="Name a directory that is new or empty, not PostgreSQL's own.",
        )


def _require_auto_open(keystore: Keystore, os_user: OsUser | None) -> Path:
    """Check that the keystore opens by itself, and return the command that a provider needs."""
    from tde.keystore import can_open_automatically
    from tde.keystore.auto_opening import require_usable_way

    try:
        require_usable_way(keystore.path)
    except KeystoreMissingError as error:
        raise ClusterKeystoreError(
            f"{error}, and nobody types a passphrase when an init script starts a server",
            remedy=error.remedy,
        ) from error
    tde = Path(sys.executable).with_name("tde")
    if not can_open_automatically(keystore.path) and not _can_run(tde, os_user):
        raise ClusterKeystoreError(
            f"the keystore {keystore.path} opens by a provider, for which the programs run {tde}, "
            "and the user that runs the server cannot run that",
            remedy="Install tde where that user can run it, for example below /opt. Or let the "
            f"keystore open by a file: tde keystore auto-open enable --keystore {keystore.path}",
        )
    return tde


def _can_run(tde: Path, os_user: OsUser | None) -> bool:
    try:
        return run_as(os_user, [tde, "--version"]).returncode == 0
    except OSError:
        return False


def _ensure_keys(keystore: Keystore, scope: Scope, algorithm: Algorithm) -> None:
    from tde.keystore import inspect_keystore

    if not inspect_keystore(keystore.path).keys:
        create_initial_keys(keystore, scope, algorithm)


def _write_settings(
    directory: Path,
    binaries: PostgresBinaries,
    keystore: Keystore,
    scope: Scope,
    tde: Path,
    checksums: bool,
) -> None:
    """Write what is of this installation and keystore."""
    server = (binaries.bindir / "postgres").stat()
    settings = {
        "bindir": binaries.bindir,
        "keystore": keystore.path,
        "tde": tde,
        "postgres_size": server.st_size,
        "postgres_mtime_ns": server.st_mtime_ns,
        "major": binaries.major,
        "checksums": "yes" if checksums else "no",
    }
    for name, value in settings.items():
        if "\n" in str(value):
            # A second line would be another setting, and the server's user may name a keystore.
            raise TdeError(f"{str(value)!r} ({name}) has a line break, and programs cannot use it")
    _write(directory / STAND_IN_SETTINGS, "".join(f"{k}={v}\n" for k, v in settings.items()))
    _write(directory / MARKER_FILE, Marker(keystore.uuid, keystore.path, scope).text())


def _write_texts(directory: Path) -> None:
    """Write what the C program reads and is of this release of tde, and the interposer."""
    # Not at the top: reading ELF files takes a library that most commands never need.
    from tde.postgres.server.symbols import symbols_to_look_for

    _write(directory / _SYMBOLS_FILE, symbols_to_look_for(find_interposer()))
    _write(directory / _GUARD_TEXT, GUARD_SECTION)
    _write(directory / _LOG_TEXT, LOG_SECTION)
    replace_readable_file(directory / INTERPOSER_NAME, find_interposer().read_bytes())
    libcrypto = read_libcrypto()
    if libcrypto is not None:
        replace_readable_file(directory / LIBCRYPTO_NAME, libcrypto)
    else:
        (directory / LIBCRYPTO_NAME).unlink(missing_ok=True)


def _is_stood_in(program: Path) -> bool:
    """Tell whether a stand-in takes the place of a program; a script finds its own way."""
    if program.name in PROGRAMS_WITH_KEYS or program.name in _PROGRAMS_WITHOUT_KEYS:
        return program.name in PROGRAMS_WITH_KEYS
    with program.open("rb") as file:
        return file.read(4) == b"\x7fELF"


def _program() -> Path:
    path = Path(str(importlib.resources.files("tde").joinpath(_PROGRAM_FILE)))
    if path.is_file():
        return path
    raise InterposerError(
        f"{_PROGRAM_FILE} is not installed with the tde package",
        remedy="Reinstall tde; in a source checkout run: make build",
    )


def _write(path: Path, text: str) -> None:
    replace_readable_file(path, os.fsencode(text))


def _link(target: Path, path: Path) -> None:
    with suppress(FileNotFoundError):
        path.unlink()
    path.symlink_to(target)
