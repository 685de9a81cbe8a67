"""Settings of a server that does not run, as ``postgres -C`` prints them."""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from tde.errors import ProgramError
from tde.postgres.server.binaries import PostgresBinaries
from tde.postgres.server.interposer import require_interposed
from tde.postgres.server.os_user import OsUser, run_as


@lru_cache
def build_setting(name: str, binaries: PostgresBinaries, os_user: OsUser | None) -> str:
    """Return a setting that was fixed or defaulted when the server was built.

    Raises:
        ProgramError: the server does not know it.
    """
    # An empty configuration file and any existing directory: no cluster is needed.
    arguments = ["-D", "/", "-c", "config_file=/dev/null", "-C", name]
    result = run_as(os_user, [binaries.program("postgres"), *arguments])
    if result.returncode != 0:
        raise ProgramError(f"postgres -C {name} failed: {result.stderr.strip()}")
    return result.stdout.strip()


def cluster_setting(
    name: str,
    data_directory: Path,
    server_arguments: Sequence[str],
    binaries: PostgresBinaries,
    os_user: OsUser | None,
    *,
    environment: dict[str, str],
    pass_fds: Sequence[int],
) -> str:
    """Return the value that the server would use for ``name`` if it started now.

    Args:
        server_arguments: what will be on the command line of the server.
        environment: with the interposer in it for an encrypted cluster, which can't read its
            own configuration without (see :mod:`tde.postgres.server.interposer`).
        pass_fds: the descriptors that ``environment`` refers to.

    Raises:
        ProgramError: the configuration or an argument has an error; the message is the server's.
        InterposerError: the interposer was not loaded or could not use the keys.
    """

    def ask(arguments: Sequence[str]) -> subprocess.CompletedProcess[str]:
        return run_as(
            os_user,
            [binaries.program("postgres"), "-D", data_directory, *arguments, "-C", name],
            environment=environment,
            pass_fds=pass_fds,
        )

    result = ask(server_arguments)
    if result.returncode != 0:
        require_interposed(result.stderr)
        # The message, which may be translated, does not always tell where the value stands.
        if server_arguments and ask(()).returncode == 0:
            raise ProgramError(
                f"the server's options cannot be used: {result.stderr.strip()}",
                remedy="The configuration files are in order without them. Correct the options of "
                f"postgres, or leave them out: {shlex.join(server_arguments)}",
            )
        raise ProgramError(
            f"the server's configuration cannot be used: {result.stderr.strip()}",
            remedy=f"Correct the configuration files in {data_directory}.",
        )
    return result.stdout.strip()
