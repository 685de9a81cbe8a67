"""Writing the files of a report: whole or not at all, for their reader's eyes only."""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from tde.errors import ReportError
from tde.postgres.server.owned_files import sync_directory, temporary_name

_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_MODE = 0o600


def require_writable(path: Path, *, replace: bool) -> None:
    """Find out before the work of hours whether its result can be written.

    Raises:
        ReportError: there is something already, or the directory is missing or closed.
    """
    if os.path.lexists(path) and not (replace and path.is_file() and not path.is_symlink()):
        remedy = "Name another file" + ("." if replace else ", or replace it with --force.")
        raise ReportError(f"{path} exists already", remedy=remedy)
    if not path.parent.is_dir():
        raise ReportError(
            f"there is no directory {path.parent}", remedy="Make it, or name another."
        )
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise ReportError(
            f"{path.parent} may not be written by the current user", remedy="Name another place."
        )


def write_files(files: Mapping[Path, bytes], *, replace: bool) -> None:
    """Write files of mode 0600 that belong to the current user; of several, all or none.

    Args:
        replace: whether what is there may be replaced.

    Raises:
        ReportError: there is something already.
        OSError: one cannot be written; nothing has changed.
    """
    prepared: dict[Path, Path] = {}
    done: list[Path] = []
    try:
        for path, content in files.items():
            temporary = path.with_name(temporary_name(path.name))
            prepared[path] = temporary
            _write(temporary, content)
        for path, temporary in prepared.items():
            _give_name(temporary, path, replace=replace)
            done.append(path)
    except BaseException:
        # What replaced an older report stays: that one is gone.
        for path in done if not replace else ():
            path.unlink(missing_ok=True)
        raise
    finally:
        for temporary in prepared.values():
            with suppress(FileNotFoundError):
                temporary.unlink()
    for directory in {path.parent for path in files}:
        sync_directory(directory)


def _write(path: Path, content: bytes) -> None:
    descriptor = os.open(path, _FLAGS, _MODE)
    with os.fdopen(descriptor, "wb") as file:
        os.fchmod(descriptor, _MODE)  # Whatever the umask.
        file.write(content)
        file.flush()
        os.fsync(descriptor)


def _give_name(temporary: Path, path: Path, *, replace: bool) -> None:
    if replace:
        temporary.replace(path)
        return
    try:
        # Unlike rename, link never replaces what somebody has put there meanwhile.
        path.hardlink_to(temporary)
    except FileExistsError:
        raise ReportError(
            f"{path} exists already", remedy="Name another file, or replace it with --force."
        ) from None
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK):
            raise
        temporary.rename(path)  # A file system without links.
