"""Giving the server's user access to the interposer and to PostgreSQL's programs.

A virtual environment below /root (mode 0700) is normal in containers, and nothing in it can
be used by the user that runs the server. What that user cannot reach is copied to a cache
directory that root owns and everybody can read. The same copy helps an ordinary user whose
path the dynamic loader cannot express: LD_PRELOAD separates its entries with colons and spaces.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import stat
import tempfile
from dataclasses import replace
from pathlib import Path

from tde.errors import UnreachablePathError
from tde.page.libcrypto import VARIABLE as LIBCRYPTO_VARIABLE, find_libcrypto
from tde.postgres.server.binaries import PostgresBinaries
from tde.postgres.server.interposer import INTERPOSER_NAME, find_interposer
from tde.postgres.server.os_user import OsUser, can_access, run_as

LIBCRYPTO_NAME = "libcrypto-for-pages.so.3"
"""What the interposer loads from its own directory (c_ext/interpose/policy/library.h)."""

log = logging.getLogger(__name__)

_SYSTEM_CACHE = Path("/var/cache/tde")
# Wheels keep the libraries that their programs are linked with beside the package.
_WHEEL_LIBRARIES = ".libs"
_UNFINISHED = ".tde-unfinished-"


def reachable_interposer(os_user: OsUser | None) -> Path:
    """Return a path of the interposer that the server's user can load.

    Raises:
        InterposerError: it was not built.
        UnreachablePathError: no usable copy can be made.
    """
    original = find_interposer()
    if _is_loadable(original) and can_access(os_user, original, "-r"):
        return original
    content = original.read_bytes()
    digest = hashlib.sha256(content)
    copy = _cache_directory() / f"interposer-{digest.hexdigest()[:16]}" / INTERPOSER_NAME
    # The loader only warns about a damaged library, so a copy is compared at every use.
    if _digest(copy) != digest.digest():
        replace_readable_file(copy, content)
    if not _is_loadable(copy) or not can_access(os_user, copy, "-r"):
        raise UnreachablePathError(
            f"the server's user cannot load {copy}",
            remedy=f"Make {copy.parent} readable, or install tde below /opt or /usr/local.",
        )
    return copy


def reachable_libcrypto(os_user: OsUser | None) -> Path | None:
    """Return the libcrypto that the server's user should encrypt pages with.

    ``None`` for the one that the server finds by itself: the system's, or what ``TDE_LIBCRYPTO``
    names. A faster one is worth a warning and no failed start.
    """
    original = None if os.environ.get(LIBCRYPTO_VARIABLE) else find_libcrypto()
    if original is None or can_access(os_user, original, "-r"):
        return original
    content = read_libcrypto()
    if content is None:
        return None
    digest = hashlib.sha256(content)
    try:
        copy = _cache_directory() / f"libcrypto-{digest.hexdigest()[:16]}" / LIBCRYPTO_NAME
        if _digest(copy) != digest.digest():
            replace_readable_file(copy, content)
    except (OSError, UnreachablePathError) as error:
        log.warning("%s cannot be copied (%s): the system's OpenSSL encrypts", original, error)
        return None
    return copy if can_access(os_user, copy, "-r") else None


def read_libcrypto() -> bytes | None:
    """Return the libcrypto of which programs get a copy; ``None`` for the system's.

    That one serves where the other cannot be read, which is said and stops nothing.
    """
    original = find_libcrypto()
    try:
        return None if original is None else original.read_bytes()
    except OSError as error:
        log.warning("%s cannot be read (%s): the system's OpenSSL encrypts", original, error)
        return None


def reachable_binaries(binaries: PostgresBinaries, os_user: OsUser | None) -> PostgresBinaries:
    """Return the installation, or a copy of it that the server's user can run.

    Raises:
        UnreachablePathError: the copy does not run; installations that were not built to be
            moved have to be made accessible where they are.
    """
    if os_user is None or can_access(os_user, binaries.bindir / "postgres", "-x"):
        return binaries
    prefix = binaries.bindir.parent
    # The path and the time of the server's file identify the installation well enough: an
    # upgrade in place changes the time.
    changed = (binaries.bindir / "postgres").stat().st_mtime_ns
    digest = hashlib.sha256(f"{prefix}\0{changed}".encode()).hexdigest()[:16]
    # The copy keeps <package>/<installation>/bin, which the wheel's library paths rely on.
    root = _cache_directory() / f"postgres-{digest}"
    package = root / prefix.parent.name
    libraries = prefix.parent.with_name(prefix.parent.name + _WHEEL_LIBRARIES)
    if libraries.is_dir() and not (root / libraries.name).exists():
        _copy_atomically(libraries, root / libraries.name)
    if not (package / prefix.name).exists():
        _copy_atomically(prefix, package / prefix.name)
    bindir = package / prefix.name / binaries.bindir.name
    for program in ("postgres", "psql"):  # psql needs libpq, postgres does not.
        result = run_as(os_user, [bindir / program, "--version"])
        if result.returncode != 0:
            raise UnreachablePathError(
                f"{os_user.name} cannot run {binaries.bindir / program}, and a copy in {bindir} "
                f"does not work: {result.stderr.strip()}",
                remedy=f"Make {binaries.bindir} accessible, or choose another --bindir.",
            )
    return replace(binaries, bindir=bindir)


def _digest(path: Path) -> bytes | None:
    """Return the SHA-256 of a file, or None when there is none."""
    try:
        return hashlib.sha256(path.read_bytes()).digest()
    except FileNotFoundError:
        return None


def _is_loadable(path: Path) -> bool:
    return not any(character in str(path) for character in ": ")


def _cache_directory() -> Path:
    """Return a directory that only the current user can write to, creating it if needed."""
    if os.geteuid() == 0:
        directory = _SYSTEM_CACHE
    else:
        directory = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "tde"
    directory.mkdir(mode=0o755, parents=True, exist_ok=True)
    found = directory.lstat()
    # The server loads code from here: nobody else may be able to put files into it.
    if (
        not stat.S_ISDIR(found.st_mode)
        or found.st_uid != os.geteuid()
        or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    ):
        raise UnreachablePathError(
            f"{directory} must be a directory, belong to the current "
            "user and be writable by nobody else",
            remedy=f"Correct its owner and mode, or remove it: rm -r {directory}",
        )
    if os.geteuid() == 0:
        directory.chmod(0o755)
    return directory


def replace_readable_file(target: Path, content: bytes, mode: int = 0o644) -> None:
    """Replace a file that everybody may read, so that it is never seen, or kept, half-written.

    Processes that run or have mapped the old one keep it.
    """
    target.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    target.parent.chmod(0o755)
    with tempfile.NamedTemporaryFile(prefix=_UNFINISHED, dir=target.parent, delete=False) as file:
        work = Path(file.name)
        try:
            file.write(content)
            file.flush()
            os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
            work.rename(target)
        except BaseException:
            work.unlink(missing_ok=True)
            raise
    _sync(target.parent)


def is_unfinished(path: Path) -> bool:
    """Tell whether a file was left by :func:`replace_readable_file` when that was interrupted."""
    return path.name.startswith(_UNFINISHED) and path.is_file() and not path.is_symlink()


def _copy_atomically(source: Path, target: Path) -> None:
    """Copy a directory so that ``target`` is never seen, or kept, half-filled."""
    target.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    target.parent.chmod(0o755)
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        work = Path(scratch) / target.name
        shutil.copytree(source, work, symlinks=True)
        _make_readable(work)
        try:
            work.rename(target)
        except OSError:
            # Somebody else has just made the same copy, which is as good.
            if not target.is_dir():
                raise
    _sync(target.parent)


def _make_readable(directory: Path) -> None:
    """Let everybody read the tree, whatever its modes were, and make it durable."""
    for parent, _, names in os.walk(directory):
        Path(parent).chmod(0o755)
        for name in names:
            path = Path(parent) / name
            if not path.is_symlink():
                path.chmod(0o755 if path.stat().st_mode & stat.S_IXUSR else 0o644)
                _sync(path)
        _sync(Path(parent))


def _sync(path: Path) -> None:
    """Make a file, or the names in a directory, durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
