"""The configuration files that servers of a cluster begin with: not always the one in PGDATA.

Debian keeps postgresql.conf in /etc and starts its servers with ``-c config_file=...``. What has
to stand in the configuration (the guard above all) must stand in every file that a server may
really begin with; in a copy that nobody uses it does nothing.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from tde.errors import ConfigurationFileError, DataDirectoryError
from tde.postgres.server.arguments import given_settings, options_in
from tde.postgres.server.config_files import (
    AUTOMATIC_FILE,
    CONFIGURATION_FILE,
    name_of,
)
from tde.postgres.server.debian_layout import data_directory_in, debian_clusters
from tde.postgres.server.file_user import files_as
from tde.postgres.server.os_user import user_of_files
from tde.postgres.server.pidfile import read_whole_arguments


def configuration_files(data_directory: Path, arguments: Sequence[str] = ()) -> list[Path]:
    """Return every file that a server of this cluster may begin its configuration with.

    These are the cluster's own postgresql.conf, the file that the last start has named, and
    Debian's file for this data directory; links are resolved. The one that a start with these
    arguments uses comes first.

    Args:
        arguments: of a start that is about to happen.

    Raises:
        ConfigurationFileError: a file that was named is missing, or cannot be told.
    """
    with files_as(user_of_files(data_directory)):
        found = [
            *_named_file(data_directory, arguments),
            *_own_file(data_directory),
            *_file_of_last_start(data_directory),
        ]
    # Root's own look: a file there that the server's user may not read is an error to name.
    found += _debian_files(data_directory)
    return list(dict.fromkeys(Path(os.path.realpath(path)) for path in found))


def files_to_look_through(data_directory: Path, arguments: Sequence[str] = ()) -> list[Path]:
    """Return the same files, and that of ALTER SYSTEM, for somebody who only reads them.

    They have the names by which a server opens them, because what a file includes is looked for
    beside its link. What is missing or cannot be told is left out: a line of postmaster.opts,
    which lies in the data directory, must not keep the other files from being looked at.

    Args:
        arguments: of a start that is about to happen, or of the last one.
    """
    found: list[Path] = []
    with files_as(user_of_files(data_directory)):
        for files in (
            _own_file(data_directory),
            _named_file(data_directory, arguments),
            _file_of_last_start(data_directory),
        ):
            with contextlib.suppress(DataDirectoryError, OSError):
                found += files
    with contextlib.suppress(OSError):
        found += _debian_files(data_directory)
    return [*found, data_directory / AUTOMATIC_FILE]


def require_ordinary_files(data_directory: Path, arguments: Sequence[str]) -> None:
    """Refuse a pipe or a device in the place of a configuration file.

    The server, which is also asked for settings, would read it for ever.

    Raises:
        ConfigurationFileError: there is one.
    """
    for path in files_to_look_through(data_directory, arguments):
        if path.is_fifo() or (path.is_char_device() and not path.samefile(os.devnull)):
            raise ConfigurationFileError(
                f"{path} is a pipe or a device, and the server would read it for ever",
                remedy="Restore the file, and find out who may write to the volume.",
            )


def configuration_arguments(data_directory: Path, arguments: Sequence[str]) -> list[str]:
    """Return what a start has to add to its arguments because PGDATA has no postgresql.conf.

    Raises:
        ConfigurationFileError: a file that was named is missing, or cannot be told.
    """
    if any(_named_file(data_directory, arguments)) or any(_own_file(data_directory)):
        return []
    files = configuration_files(data_directory)
    return ["-c", f"config_file={files[0]}"] if files else []


def _own_file(data_directory: Path) -> Iterator[Path]:
    path = data_directory / CONFIGURATION_FILE
    if os.path.lexists(path):
        yield path


def _named_file(data_directory: Path, arguments: Sequence[str]) -> Iterator[Path]:
    """Yield the file that arguments name; a server takes the last one of several."""
    given = dict(given_settings(arguments)).get("config_file")
    if given is None:
        return
    named = name_of(given)
    path = Path(named)
    if not path.is_absolute():
        raise ConfigurationFileError(
            f"the server of {data_directory} is started with config_file={named}, and where that "
            "is depends on the directory in which it is started",
            remedy="Start the server once with the whole path, and stop it.",
        )
    if not path.exists():
        raise ConfigurationFileError(
            f"the server of {data_directory} is started with config_file={path}, which is missing",
            remedy="If it is started with another file now: start it so, stop it, and repeat the "
            "command. Else restore the file.",
        )
    yield path


def _file_of_last_start(data_directory: Path) -> Iterator[Path]:
    """Yield what postmaster.opts says, unless it came here with a copy of another cluster."""
    arguments = read_whole_arguments(data_directory)
    directory = dict(options_in(arguments)).get("D")
    is_own = directory is None or _is_same(Path(directory), data_directory)
    if directory is not None and not is_own:
        # A server finds data_directory in the postgresql.conf of the directory that -D names.
        path = Path(directory) / CONFIGURATION_FILE
        if path.is_absolute() and data_directory_in(path) == _real(data_directory):
            yield path
    try:
        named = list(_named_file(data_directory, arguments))
    except ConfigurationFileError:
        if is_own:
            raise
        return
    for path in named:
        found = data_directory_in(path)
        if found == _real(data_directory) or (found is None and directory and is_own):
            yield path


def _debian_files(data_directory: Path) -> Iterator[Path]:
    """Yield the files by which Debian's pg_ctlcluster starts this cluster."""
    for cluster in debian_clusters():
        if cluster.data_directory == _real(data_directory):
            yield cluster.directory / CONFIGURATION_FILE


def _real(path: Path) -> Path:
    # Not resolve(), which raises on links that lead to each other.
    return Path(os.path.realpath(path))


def _is_same(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:
        return False
