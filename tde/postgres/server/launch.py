"""Starting and stopping servers, with the interposer and the keys when there is a keystore.

The interposer is loaded through LD_PRELOAD and finds the keys in a sealed memfd whose number
stands in ``TDE_IO_KEYS_FD``. pg_ctl and the shell that it starts hand both on to postgres,
which removes them from its environment before it starts anything else.
"""

from __future__ import annotations

import math
import os
import shlex
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tde.errors import (
    InterposerError,
    ServerStartError,
    ServerStillStartingError,
    ServerStopError,
)
from tde.machine.own_process import LockedPages
from tde.page.libcrypto import VARIABLE as LIBCRYPTO_VARIABLE
from tde.postgres.server.binaries import PostgresBinaries
from tde.postgres.server.interposer import is_interposed, require_interposed
from tde.postgres.server.logs_of_start import LogsOfStart
from tde.postgres.server.os_user import OsUser, run_as
from tde.postgres.server.pidfile import read_postmaster_file
from tde.postgres.server.reachable import reachable_interposer, reachable_libcrypto

if TYPE_CHECKING:
    from tde.keystore import Keystore

# How long a program may take beyond the time that it was told to wait, in seconds.
_GRACE_SECONDS = 30.0


@dataclass(frozen=True)
class ProgramEnvironment:
    """The environment of a PostgreSQL program and the descriptors that it must inherit.

    Attributes:
        let_go: closes the descriptors here. A program that was started has its own.
    """

    variables: dict[str, str]
    pass_fds: tuple[int, ...] = ()
    let_go: Callable[[], None] = lambda: None


@contextmanager
def program_environment(
    keystore: Keystore | None,
    os_user: OsUser | None,
    extra: Mapping[str, str] | None = None,
    *,
    closed: bool = False,
) -> Iterator[ProgramEnvironment]:
    """Yield the environment for a PostgreSQL program, ready for encryption if a keystore is given.

    The descriptor with the keys is closed at the end; a program started inside has its own.

    Args:
        extra: variables on top of the caller's environment.
        closed: sessions of a server wait until the keystore is opened.

    Raises:
        InterposerError: a keystore is given and the interposer was not built.
    """
    variables = {**os.environ, **(extra or {})}
    if keystore is None:
        yield ProgramEnvironment(variables)
        return
    libcrypto = reachable_libcrypto(os_user)
    if libcrypto is not None:
        variables[LIBCRYPTO_VARIABLE] = str(libcrypto)
    preload = [str(reachable_interposer(os_user))]
    if variables.get("LD_PRELOAD"):
        preload.append(variables["LD_PRELOAD"])
    with keystore.hand_over(closed=closed) as hand_over, LockedPages(hand_over.fd) as locked:
        variables.update(hand_over.environment)
        variables["LD_PRELOAD"] = ":".join(preload)

        def let_go() -> None:
            locked.close()
            hand_over.close()

        yield ProgramEnvironment(variables, (hand_over.fd,), let_go)


def start_server(
    data_directory: Path,
    binaries: PostgresBinaries,
    os_user: OsUser | None,
    server_arguments: Sequence[str],
    program: ProgramEnvironment,
    *,
    log: Path,
    timeout: float,
) -> int:
    """Start the server with pg_ctl, wait until it accepts connections, and return its pid.

    Args:
        server_arguments: arguments of postgres itself.
        log: receives the server's output until its own logging takes over.
        timeout: seconds to wait.

    Raises:
        ServerStillStartingError: it is alive, but not ready in time.
        InterposerError: it did not start because the interposer was not active.
        ServerStartError: it did not start. The end of the log is in the message of both.
    """
    logs = LogsOfStart.before(log, data_directory, os_user)
    command: list[str | Path] = [binaries.program("pg_ctl"), "start", "-w", "-s"]
    command += ["-D", data_directory, "-l", log, "-t", str(math.ceil(timeout))]
    if server_arguments:
        # pg_ctl pastes this into a shell command.
        command += ["-o", shlex.join(server_arguments)]
    try:
        result = run_as(
            os_user,
            command,
            environment=program.variables,
            pass_fds=program.pass_fds,
            timeout=timeout + _GRACE_SECONDS,
            # pg_ctl lets go of its own once the server runs; recovery can take hours from there.
            started=program.let_go,
        )
        output, failed = result.stdout + result.stderr, result.returncode != 0
    except subprocess.TimeoutExpired:
        output, failed = "pg_ctl does not return", True
    running = read_postmaster_file(data_directory)
    if running is None:
        message = logs.describe("the server did not start", output)
        require_interposed(message)
        raise ServerStartError(message, remedy=logs.remedy())
    if failed:
        # Recovery can take hours. Killing the server or starting it again only prolongs it.
        message = f"the server is still starting (pid {running.pid}), perhaps in recovery"
        raise ServerStillStartingError(
            logs.describe(message, output),
            remedy="Wait and see tde pg status; do not kill the server or start it again.",
        )
    return running.pid


def require_interposer(
    data_directory: Path, binaries: PostgresBinaries, os_user: OsUser | None, pid: int
) -> None:
    """Stop a server that should encrypt and does not, and say why that can be.

    The dynamic loader ignores LD_PRELOAD silently in several situations, so success is
    reported only for a server that provably has the interposer in its memory.

    Raises:
        ServerStartError: it has ended by itself meanwhile.
        InterposerError: the interposer is not active; the server was stopped.
    """
    try:
        if is_interposed(pid):
            return
        reason = "the interposer is not loaded in the new server"
    except OSError as error:
        reason = f"cannot tell whether the interposer is loaded in the new server: {error}"
    if read_postmaster_file(data_directory) is None:
        # A standby may be ready, and then replay what it cannot.
        raise ServerStartError(
            f"the server in {data_directory} ended just after its start",
            remedy="See the server's log.",
        )
    stop_server(data_directory, binaries, os_user, mode="immediate", timeout=_GRACE_SECONDS)
    raise InterposerError(
        f"{reason}; the server was stopped again",
        remedy="The loader ignores LD_PRELOAD for statically linked and setuid programs, for "
        "programs with file capabilities, and after an SELinux domain transition.",
    )


def stop_server(
    data_directory: Path,
    binaries: PostgresBinaries,
    os_user: OsUser | None,
    *,
    mode: str,
    timeout: float,
) -> None:
    """Stop the server with pg_ctl and wait until it is gone.

    Args:
        mode: ``smart``, ``fast`` or ``immediate``, as pg_ctl defines them.
        timeout: seconds to wait.

    Raises:
        ServerStopError: it still runs.
    """
    command: list[str | Path] = [binaries.program("pg_ctl"), "stop", "-w", "-s"]
    command += ["-D", data_directory, "-m", mode, "-t", str(math.ceil(timeout))]
    try:
        result = run_as(os_user, command, timeout=timeout + _GRACE_SECONDS)
    except subprocess.TimeoutExpired as error:
        raise ServerStopError(
            f"the server in {data_directory} did not stop: pg_ctl does not return",
            remedy="Stop it with -m immediate.",
        ) from error
    # One that ends by itself at the same moment has taken away what pg_ctl looks for.
    if result.returncode != 0 and read_postmaster_file(data_directory) is not None:
        raise ServerStopError(
            f"the server in {data_directory} did not stop: "
            f"{(result.stdout + result.stderr).strip()}",
            remedy="Disconnect the clients, or stop it with -m fast or -m immediate.",
        )
