"""Checks of a cluster: settings, guard, data directory, and the server that runs."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path

from tde.doctor.examined import AS_OWNER, Examined
from tde.doctor.settings import Settings
from tde.errors import ConversionError, ProgramError, TdeError
from tde.machine.process_files import working_directory
from tde.machine.verdict import Outcome, ok, problem, unknown, warning
from tde.postgres.cluster.accepted_lines import accept_hint, new_lines
from tde.postgres.cluster.configuration import configuration_files
from tde.postgres.cluster.guard import has_guard
from tde.postgres.cluster.questions import LET_CONNECT
from tde.postgres.cluster.unfinished_conversion import (
    left_journal,
    left_journal_remedy,
    read_finished_control_data,
    require_not_converting,
)
from tde.postgres.server.file_user import files_as
from tde.postgres.server.interposer import GUARD_FILE, GUARD_LINE, is_interposed
from tde.postgres.server.os_user import current_user_name, user_name, user_of_files
from tde.postgres.server.pidfile import is_postgres_process, named_process, read_server_arguments
from tde.postgres.server.start_settings import unsupported_settings

_ENCRYPT_IT = "Encrypt it with tde pg encrypt, or create another one with tde pg init."
_LOOK_INTO = "Let a superuser connect to it (ALTER DATABASE {} ALLOW_CONNECTIONS true), and repeat."
_REFUSED_VALUE = re.compile(r'invalid value for parameter "(\w+)": "(\w+)"')
_LOG_PREFIX = re.compile(r"\d{4}-\d\d-\d\d \S+ \S+ \[\d+\] (LOG: +|FATAL: +)?")
_GROUP_READ = 0o750  # What initdb --allow-group-access makes, and the server accepts.


def check_access(examined: Examined) -> Iterator[Outcome]:
    """Say it when the cluster may not be looked at; all that is about it is then left out."""
    if not examined.readable:
        yield unknown(
            f"{examined.data_directory} may not be read by {current_user_name()}, so nothing can "
            "be said about the cluster",
            AS_OWNER,
        )


def check_encryption(examined: Examined) -> Iterator[Outcome]:
    """Tell whether the cluster is encrypted, and whether a start without tde is stopped."""
    directory = examined.data_directory
    try:
        require_not_converting(directory)
    except ConversionError as error:
        yield problem(str(error), error.remedy)
        return
    if left := left_journal(directory):
        yield warning(left, left_journal_remedy(directory))
    if isinstance(examined.found_marker, TdeError):
        yield problem(str(examined.found_marker), examined.found_marker.remedy)
        return
    files = configuration_files(directory)
    if not files and examined.marker is None:
        yield warning("this cluster is not encrypted", _ENCRYPT_IT)
        return
    if not files:
        yield unknown(
            f"there is no postgresql.conf in {directory}, so a start without tde may not be "
            "stopped early",
            f"See that the configuration file in use has the line: {GUARD_LINE}",
        )
        return
    with files_as(examined.os_user):
        unguarded = [path for path in files if not has_guard(path)]
    if examined.marker is None and len(unguarded) < len(files):
        guarded = next(path for path in files if path not in unguarded)
        yield problem(
            f"{guarded} is that of an encrypted cluster, but tde.json is missing",
            f"Restore {directory}/tde.json from a backup of the data directory.",
        )
    elif examined.marker is None:
        yield warning("this cluster is not encrypted", _ENCRYPT_IT)
    elif made := [path for path in _guard_places(directory, files) if path.exists()]:
        yield problem(
            f"somebody has created {made[0]}, so a start without tde is not stopped early",
            f"Remove it: rm {made[0]}",
        )
    elif unguarded:
        for path in unguarded:
            yield problem(
                f"{path} lacks the line that stops a start without tde",
                f"Append to {path}: {GUARD_LINE}",
            )
    else:
        yield ok(f"scope {examined.marker.scope.value}; a start without tde is stopped early")


def _guard_places(directory: Path, files: list[Path]) -> list[Path]:
    """Return where the file that must not exist would be found: beside each that includes it."""
    return [place / GUARD_FILE for place in dict.fromkeys([directory, *(f.parent for f in files)])]


def check_plain_copies(examined: Examined) -> Iterator[Outcome]:
    """Tell what holds rows of encrypted tables in plain tablespaces."""
    found = examined.plain_copies
    if isinstance(found, TdeError):
        raise found
    if found is None or not found.possible:
        yield ok("every tablespace is encrypted" if examined.marker else "nothing is encrypted")
        return
    for copy in found.copies:
        yield problem(copy.problem, copy.remedy)
    if found.obstacle:
        how = "Start the server" if examined.pid is None else "Name a superuser with --username"
        yield unknown(
            f"not looked for, because only the server knows them: {found.obstacle}",
            f"{how}, and repeat this.",
        )
    for database, why in found.unread.items():
        yield unknown(f"not looked for in database {database}: {why}", _LOOK_INTO.format(database))
    if not found.copies and found.all_seen:
        yield ok("none of rows in encrypted tablespaces")


def check_configuration(examined: Examined) -> Iterator[Outcome]:
    """Tell where the settings were read, or why they could not be."""
    found = examined.found_settings
    if isinstance(found, ProgramError) and "Permission denied" not in str(found):
        message = " ".join(_LOG_PREFIX.sub("", line) for line in str(found).splitlines())
        yield problem(message, found.remedy or "Correct the configuration files.")
    elif isinstance(found, TdeError):
        yield unknown(f"the settings could not be read: {found}", found.remedy or AS_OWNER)
    elif examined.settings.obstacle:
        yield warning(
            "judged by the configuration files, from which the running server may differ: "
            + examined.settings.obstacle,
            LET_CONNECT.format("the server's user"),
        )
    else:
        yield ok(f"as read from {examined.settings.source}")


def check_new_lines(examined: Examined) -> Iterator[Outcome]:
    """Name the lines that run programs or load libraries, and that nobody has accepted."""
    if examined.keystore is None:
        yield ok("not looked at in a cluster without encryption")
        return
    directory = examined.data_directory
    found = new_lines(directory, examined.keystore, read_server_arguments(directory))
    for line in found:
        yield problem(
            f"{line} was not there when the cluster was last started by hand",
            accept_hint(directory),
        )
    if not found:
        # Without a key, the record is believed where tde.json says that it lies.
        yield ok(
            "no line that runs a program or loads a library is new, by the record in "
            f"{examined.keystore}; if that is not your keystore, name yours with --keystore"
        )


def check_io_settings(examined: Examined) -> Iterator[Outcome]:
    """Look for the settings with which rows would get past the interposer, as each start does."""
    # A build without io_uring refuses that value before it can be asked for.
    values = dict(_REFUSED_VALUE.findall(str(examined.found_settings)))
    settings = Settings(values, "") if values else examined.settings
    refused = list(unsupported_settings(settings.value, examined.binaries.major))
    for error in refused:
        yield problem(str(error), f"{error.remedy} Then restart the server.")
    if not refused:
        yield ok("no setting lets rows past the encryption")


def check_checksums(examined: Examined) -> Iterator[Outcome]:
    """Tell whether damage to a page would be noticed."""
    control = read_finished_control_data(
        examined.data_directory, examined.binaries, examined.os_user
    )
    if control.data_checksums:
        yield ok("on")
        return
    yield problem(
        "off: a block that was altered or decrypted as another one would not be noticed",
        _enable_checksums(examined),
    )


def _enable_checksums(examined: Examined) -> str:
    """Return the remedy; on encrypted files PostgreSQL's own program would destroy every page."""
    directory = examined.data_directory
    if isinstance(examined.found_marker, TdeError) or (
        examined.marker is None and _has_guard(directory)
    ):
        return (
            "First see the line Encryption: until tde knows that this cluster is encrypted, "
            "nothing may turn checksums on."
        )
    if examined.marker is None:
        enable = f"{examined.binaries.program('pg_checksums')} --enable -D {directory}"
        return (
            "tde pg encrypt turns them on as it encrypts. Without encryption: stop the server, run "
            f"{enable}, and start it again."
        )
    return (
        f"tde pg stop -D {directory}; tde pg exec -D {directory} pg_checksums --enable "
        f"-D {directory}; tde pg start -D {directory}. Only with tde pg exec: pg_checksums "
        "by itself has no keys and would destroy every page."
    )


def _has_guard(directory: Path) -> bool:
    try:
        with files_as(user_of_files(directory)):
            return any(has_guard(path) for path in configuration_files(directory))
    except (OSError, TdeError):
        return False


def check_full_page_writes(examined: Examined) -> Iterator[Outcome]:
    """Tell whether pages that a crash tore are restored."""
    if examined.settings.is_on("full_page_writes"):
        yield ok("on")
    else:
        yield warning(
            "off: after a crash, a page of which only a part was written is lost, unless the "
            "file system writes whole blocks of 8 KiB",
            "ALTER SYSTEM RESET full_page_writes (or set it on in postgresql.conf), "
            "then SELECT pg_reload_conf().",
        )


def check_wal_log_hints(examined: Examined) -> Iterator[Outcome]:
    """Tell whether pg_rewind will be able to work on this cluster."""
    if examined.settings.is_on("wal_log_hints"):
        yield ok("on")
    elif read_finished_control_data(
        examined.data_directory, examined.binaries, examined.os_user
    ).data_checksums:
        yield ok("off, which pg_rewind does not need with data checksums")
    else:
        yield warning(
            "off, and no data checksums: pg_rewind cannot bring back an old primary",
            "ALTER SYSTEM SET wal_log_hints = on, then restart the server; or see Data checksums.",
        )


def check_data_directory(examined: Examined) -> Iterator[Outcome]:
    """Tell who may read the data directory."""
    status = examined.data_directory.stat()
    mode = stat.S_IMODE(status.st_mode)
    uid = os.geteuid() if examined.os_user is None else examined.os_user.uid
    if status.st_uid != uid:
        yield problem(
            f"it belongs to {user_name(status.st_uid)}, the server runs as {user_name(uid)}",
            f"chown -R {user_name(uid)} {examined.data_directory}, or run this as the owner.",
        )
    elif mode & ~_GROUP_READ:
        yield problem(
            f"it is open to others (mode {mode:04o}); the server refuses to start",
            f"chmod 0700 {examined.data_directory}",
        )
    else:
        yield ok(f"mode {mode:04o}, owner {user_name(status.st_uid)}")


def check_server(examined: Examined) -> Iterator[Outcome]:
    """Tell whether the server that runs really encrypts."""
    if examined.pid_problem is not None:
        raise examined.pid_problem
    if examined.pid is None:
        if _may_be_hidden(examined.data_directory):
            yield unknown("a server may be running that cannot be looked at", AS_OWNER)
        else:
            yield ok("none runs")
        return
    interposed = is_interposed(examined.pid)
    if not examined.is_encrypted:
        yield ok(f"pid {examined.pid}, without encryption")
    elif interposed:
        yield ok(f"pid {examined.pid}, with the interposer in its memory")
    else:
        yield problem(
            f"pid {examined.pid}, WITHOUT the interposer: it does not encrypt",
            "Stop it at once (tde pg stop -m immediate) and start it with tde pg start.",
        )


def _may_be_hidden(data_directory: Path) -> bool:
    """Tell whether postmaster.pid names a server that this user may not look at."""
    try:
        pid = named_process(data_directory)
    except TdeError:
        return False
    if pid is None or not is_postgres_process(pid):
        return False
    try:
        working_directory(pid)
    except OSError:
        return is_postgres_process(pid)
    return False
