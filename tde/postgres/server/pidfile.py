"""The files through which a running server describes itself: postmaster.pid and postmaster.opts."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

import psutil

from tde.machine.process_files import identity, process_user, working_directory
from tde.postgres.server.cluster_files import read_cluster_file
from tde.postgres.server.published import read_published_status

_NUMBER = re.compile(r"-?([0-9]{1,9})")


@dataclass(frozen=True)
class PostmasterFile:
    """The content of postmaster.pid (src/include/utils/pidfile.h of PostgreSQL).

    Attributes:
        pid: process id of the postmaster.
        port: port number, which also names the Unix socket.
        socket_directory: first Unix socket directory; empty when there is none.
        listen_address: first TCP address; empty when there is none.
        status: ``starting``, ``stopping``, ``ready`` or ``standby``.
    """

    pid: int
    port: int
    socket_directory: str
    listen_address: str
    status: str


def read_postmaster_file(data_directory: Path) -> PostmasterFile | None:
    """Return the description of the running server, or ``None`` when none runs.

    A file that a killed server left behind counts as no server, also when its process id has
    since been given to the server of another cluster.

    Raises:
        DataDirectoryError: there is something by that name that no server has made.
    """
    try:
        lines = _lines_of_postmaster_file(data_directory)
    except (FileNotFoundError, NotADirectoryError):
        return None
    # The server appends lines while it starts; what is not there yet reads as empty.
    lines += [""] * (8 - len(lines))
    pid = _number(lines[0])
    if pid is None or not is_server_of(pid, data_directory):
        return None
    return PostmasterFile(
        pid=pid,
        port=_number(lines[3]) or 0,
        socket_directory=lines[4].strip(),
        listen_address=lines[5].strip(),
        status=lines[7].strip(),
    )


def named_process(data_directory: Path) -> int | None:
    """Return the process id in postmaster.pid, whatever process that is.

    Raises:
        DataDirectoryError: there is something by that name that no server has made.
        OSError: the file may not be read.
    """
    try:
        return _number(_lines_of_postmaster_file(data_directory)[0])
    except FileNotFoundError:
        return None


def _lines_of_postmaster_file(data_directory: Path) -> list[str]:
    content = read_cluster_file(data_directory, "postmaster.pid")
    return content.decode("utf-8", "surrogateescape").split("\n")


def _number(text: str) -> int | None:
    """Return a number as PostgreSQL prints it; a stand-alone backend's process id is negative."""
    match = _NUMBER.fullmatch(text.strip())
    return None if match is None else int(match[1])


def is_postgres_process(pid: int) -> bool:
    """Tell whether ``pid`` is a live process named postgres (process ids are reused)."""
    try:
        process = psutil.Process(pid)
        return process.name() in ("postgres", "postmaster") and (
            process.status() != psutil.STATUS_ZOMBIE
        )
    except psutil.NoSuchProcess:
        return False


def is_server_of(pid: int, data_directory: Path) -> bool:
    """Tell whether ``pid`` is a server that runs in this data directory.

    A server's working directory is its data directory from before it writes postmaster.pid
    until its end.
    """
    if not is_postgres_process(pid):
        return False
    try:
        directory = data_directory.stat()
    except OSError:
        return False
    try:
        published = read_published_status(pid)
        found = working_directory(pid) if published is None else published.directory
        return found == identity(directory)
    except PermissionError:
        # It is another user's, and we are neither that user nor root; or it is a server with keys
        # whose published status was removed: then better one server too many than two.
        return os.geteuid() in (0, directory.st_uid) and process_user(pid) == directory.st_uid
    except OSError:
        return False  # The process is gone.


def read_server_arguments(data_directory: Path) -> list[str]:
    """Return the arguments of the last start without ``-D``, for a restart with the same ones.

    postmaster.opts holds the program and then every argument in double quotes; an argument
    with a double quote in it cannot be told apart, which is also pg_ctl's limitation.

    Raises:
        DataDirectoryError: there is something by that name that no server has made.
    """
    arguments = read_whole_arguments(data_directory)
    if "-D" in arguments:
        position = arguments.index("-D")
        del arguments[position : position + 2]
    return arguments


def read_whole_arguments(data_directory: Path) -> list[str]:
    """Return the arguments of the last start, ``-D`` included; empty when there was none."""
    try:
        content = read_cluster_file(data_directory, "postmaster.opts")
    except FileNotFoundError:
        return []
    text = content.decode("utf-8", "surrogateescape")
    return re.findall(r'"([^"]*)"', text)
