"""Running any PostgreSQL program (pg_basebackup, pg_waldump, …) as the server's user.

With a keystore, the programs that read or write encrypted files run under the interposer, which
knows what each may see in plain text. All others get no keys, and most of them no interposer.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from tde.postgres.server.binaries import PostgresBinaries
from tde.postgres.server.control import state_environment
from tde.postgres.server.launch import ProgramEnvironment, program_environment
from tde.postgres.server.named_directory import INFORMATION_OPTIONS
from tde.postgres.server.os_user import OsUser, become, can_access, run_as, user_environment
from tde.postgres.server.reachable import reachable_binaries

if TYPE_CHECKING:
    from tde.keystore import Keystore

# A program that gets the keys could print them, and psql runs any command that is typed into it.
_PROGRAMS_WITH_KEYS = frozenset(
    {
        *("postgres", "initdb", "pg_ctl", "pg_basebackup", "pg_receivewal", "pg_rewind"),
        *("pg_waldump", "pg_resetwal", "pg_checksums", "pg_checksums_ext", "pg_amcheck"),
        "pg_verifybackup",  # Starts pg_waldump.
        "pg_createsubscriber",  # Starts the server.
    }
)


# Those that open relations in the data directory, or start a server that does.
_PROGRAMS_ON_TABLESPACES = frozenset(
    {
        *("postgres", "pg_ctl", "pg_rewind", "pg_resetwal", "pg_checksums", "pg_checksums_ext"),
        "pg_createsubscriber",
    }
)


def works_on_tablespaces(program: str, args: Sequence[str]) -> bool:
    """Tell whether a program has to know what key each tablespace has."""
    return program in _PROGRAMS_ON_TABLESPACES and not INFORMATION_OPTIONS.intersection(args[:1])


# What the interposer does for these needs no keys: it shows the true state in pg_control, and
# compares the key maps of backups.
_PROGRAMS_WITHOUT_KEYS = frozenset({"pg_controldata", "pg_combinebackup", "repmgr"})


def needs_keys(program: str) -> bool:
    """Tell whether a program works on encrypted files itself, or starts one that does."""
    return program in _PROGRAMS_WITH_KEYS


def run_program(
    binaries: PostgresBinaries,
    program: str,
    args: Sequence[str],
    *,
    keystore: Keystore | None = None,
    os_user: OsUser | None = None,
    environment: Mapping[str, str] | None = None,
    capture: bool = True,
    timeout: float | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a program of an installation and return its result; a failure is not an exception.

    Args:
        program: name of the program, without a directory.
        args: its arguments.
        keystore: runs it under the interposer with these keys, if it :func:`needs_keys`.
        os_user: the user to run as, or ``None`` for the current one.
        environment: variables on top of the current environment.
        capture: collect the output as text; otherwise it goes where the caller's goes.
        timeout: seconds to wait before :class:`subprocess.TimeoutExpired`.

    Raises:
        BinariesNotFoundError: the installation does not have the program.
        InterposerError: a keystore is given and the interposer was not built.
    """
    with _prepared(binaries, program, args, keystore, os_user, environment) as prepared:
        return run_as(
            os_user,
            prepared.command,
            environment=prepared.program.variables,
            pass_fds=prepared.program.pass_fds,
            cwd=prepared.cwd,
            capture=capture,
            timeout=timeout,
            started=prepared.program.let_go,
        )


def execute_program(
    binaries: PostgresBinaries,
    program: str,
    args: Sequence[str],
    *,
    keystore: Keystore | None = None,
    os_user: OsUser | None = None,
    environment: Mapping[str, str] | None = None,
) -> NoReturn:
    """Become a program of an installation: it gets all signals, and its end is this one's.

    Args:
        program: as of :func:`run_program`, and all others too.

    Raises:
        BinariesNotFoundError: the installation does not have the program.
        InterposerError: a keystore is given and the interposer was not built.
        OSError: the program cannot be executed.
    """
    with _prepared(binaries, program, args, keystore, os_user, environment) as prepared:
        for descriptor in prepared.program.pass_fds:
            os.set_inheritable(descriptor, True)
        variables = user_environment(os_user, prepared.program.variables)
        if os_user is not None:
            become(os_user)
        if prepared.cwd is None:
            os.chdir("/")
        # What Python ignores, a program of PostgreSQL's takes as its own.
        for name in ("SIGPIPE", "SIGXFSZ"):
            signal.signal(signal.Signals[name], signal.SIG_DFL)
        command = [os.fspath(word) for word in prepared.command]
        os.execve(command[0], command, variables)


@dataclass(frozen=True)
class _Prepared:
    """What is needed to start a program.

    Attributes:
        cwd: of :func:`_directory_for`.
    """

    command: list[str | Path]
    program: ProgramEnvironment
    cwd: Path | None


@contextmanager
def _prepared(
    binaries: PostgresBinaries,
    program: str,
    args: Sequence[str],
    keystore: Keystore | None,
    os_user: OsUser | None,
    environment: Mapping[str, str] | None,
) -> Iterator[_Prepared]:
    if not needs_keys(program):
        keystore = None
    if program in _PROGRAMS_WITHOUT_KEYS:
        environment = {**state_environment(os_user), **(environment or {})}
    usable = reachable_binaries(binaries, os_user)
    command: list[str | Path] = [usable.program(program)]
    command += program_arguments(program, args, keystore is not None)
    with program_environment(keystore, os_user, environment) as prepared:
        yield _Prepared(command, prepared, _directory_for(os_user))


def _directory_for(os_user: OsUser | None) -> Path | None:
    """Return the caller's directory, to which relative paths among the arguments belong.

    ``None`` where the user may not stay in it, or where it is gone.
    """
    try:
        cwd = Path.cwd()
    except FileNotFoundError:
        return None
    return cwd if can_access(os_user, cwd, "-x") else None


def program_arguments(program: str, args: Sequence[str], encrypted: bool) -> list[str]:
    """Return the arguments with what encryption needs added.

    A base backup sends the pages as they are on disk, so the server cannot verify their
    checksums. The option goes last, where it wins, except that ``--help`` and ``--version``
    work only as the first argument and need nothing.
    """
    result = list(args)
    if not encrypted or program != "pg_basebackup":
        return result
    if result and result[0] in INFORMATION_OPTIONS:
        return result
    return [*result, "--no-verify-checksums"]
