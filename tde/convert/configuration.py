"""The configuration of a cluster that is converted: what is checked before, and changed after."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from tde.errors import ConfigurationFileError, ConversionError
from tde.postgres.cluster.configuration import configuration_files
from tde.postgres.cluster.guard import add_guard, has_guard, remove_guard
from tde.postgres.cluster.log_settings import add_log_settings, remove_log_settings
from tde.postgres.server.file_user import files_as
from tde.postgres.server.interposer import GUARD_FILE, GUARD_LINE
from tde.postgres.server.os_user import OsUser, name_of_user
from tde.postgres.server.owned_files import temporary_name


def require_usable_configuration(
    data_directory: Path, os_user: OsUser | None, *, guarded: bool
) -> None:
    """Check that the guard can be put into every file that the server may begin with.

    Args:
        guarded: whether it has to be there afterwards, or gone. A file in which it is so already
            need not be writable.

    Raises:
        ConversionError: with the file, and what to do.
    """
    for path in _files(data_directory):
        with files_as(os_user):
            try:
                if has_guard(path) is not guarded:
                    _require_replaceable(path, os_user)
            except OSError as error:
                reason = error.strerror or str(error)
                raise ConversionError(
                    f"the configuration file {path} cannot be read and replaced by the server's "
                    f"user: {reason}",
                    remedy=_remedy(path, os_user, guarded=guarded),
                ) from error


def guard_configuration(data_directory: Path, os_user: OsUser | None) -> None:
    """Put the guard, and the settings of the log, into every file that has no guard yet.

    The caller has the rights of the server's user.
    """
    for path in _files(data_directory):
        _remove_stale(path)
        if not has_guard(path):
            add_log_settings(path, os_user)
            add_guard(path, os_user)


def release_configuration(data_directory: Path, os_user: OsUser | None) -> None:
    """Take out what :func:`guard_configuration` has put in."""
    for path in _files(data_directory):
        _remove_stale(path)
        if has_guard(path):
            remove_log_settings(path, os_user)
            remove_guard(path, os_user)


def _files(data_directory: Path) -> list[Path]:
    try:
        files = configuration_files(data_directory)
    except ConfigurationFileError as error:
        raise ConversionError(str(error), remedy=error.remedy) from error
    if not files:
        raise ConversionError(
            f"{data_directory} has no postgresql.conf, and it cannot be told which file its server "
            "uses",
            remedy="Start the server once in the way in which you always do, and stop it. It then "
            "says so in postmaster.opts.",
        )
    return files


def _require_replaceable(path: Path, os_user: OsUser | None) -> None:
    """Try what a change needs, and leave no trace.

    Raises:
        OSError: the file or its directory is somebody else's, or cannot be written.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        status = os.fstat(descriptor)
    finally:
        os.close(descriptor)
    if not stat.S_ISREG(status.st_mode):
        raise OSError(0, "it is not a file")
    # Root changes for the server's user only what is that user's own.
    for owned in (status, path.parent.stat()):
        if os_user is not None and owned.st_uid != os_user.uid:
            raise OSError(0, f"it, or its directory, does not belong to {os_user.name}")
    probe = path.with_name(temporary_name(path.name))
    os.close(os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    probe.unlink()


def _remove_stale(path: Path) -> None:
    """Remove what a run that was killed while it wrote this file has left."""
    for stale in path.parent.glob(f".{path.name}.*.tmp"):
        stale.unlink()


def _remedy(path: Path, os_user: OsUser | None, *, guarded: bool) -> str:
    name = name_of_user(os_user)
    by_hand = (
        f"append this line to it: {GUARD_LINE}"
        if guarded
        else f"remove the line with {GUARD_FILE} from it"
    )
    return (
        f"Give the file and its directory to that user: chown {name} {path} {path.parent}. "
        f"Or, if it must stay read-only, {by_hand}. No file of the cluster has been changed."
    )
