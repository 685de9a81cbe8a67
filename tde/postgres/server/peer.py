"""Connecting to a server as its own operating-system user, whom peer authentication knows.

Debian's pg_hba.conf lets the superuser in by peer authentication only: the server asks the kernel
who has connected. Root is nobody there, but may connect as anybody.
"""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psycopg2

from tde.errors import OsUserError
from tde.postgres.server.os_user import OsUser, user_of_files

_SECONDS = 30  # For a server that is busy; one that never answers keeps nobody waiting.
_SAME = ctypes.c_uint32(-1)
# The C library's setresuid changes every thread of a process, so the kernel is asked directly.
_SETRESUID = {"x86_64": 117, "aarch64": 147, "riscv64": 147, "ppc64le": 164, "s390x": 208}


def connect_as_peer(parameters: Mapping[str, Any]) -> Any:
    """Return a psycopg2 connection, made by root as the owner of the server's socket.

    What that user may not do, root then tries as itself: its .pgpass may have a password.

    Args:
        parameters: of ``psycopg2.connect``.

    Raises:
        psycopg2.OperationalError: there is none.
    """
    timely = {"connect_timeout": _SECONDS, **parameters}
    user = owner_of_socket(parameters)
    # What is in the place of a server's socket may be somebody else's; peer authentication knows
    # this user by that name only.
    if user is not None and user.name == parameters.get("user"):
        with suppress(psycopg2.OperationalError), _seen_as(user.uid):
            return psycopg2.connect(**timely)
    return psycopg2.connect(**timely)


def owner_of_socket(parameters: Mapping[str, Any]) -> OsUser | None:
    """Return who runs the server of a Unix socket, if that is another user and this one is root."""
    directory = Path(str(parameters.get("host") or ""))
    if not directory.is_absolute() or "port" not in parameters:
        return None
    return user_of_files(directory / f".s.PGSQL.{parameters['port']}")


@contextmanager
def _seen_as(uid: int) -> Iterator[None]:
    """Let the kernel take what this thread, and no other, connects to for a user's connection.

    Where the machine's number of the call is not known, the connection is root's.
    """
    number = _SETRESUID.get(platform.machine())
    if number is None:
        yield
        return
    libc = ctypes.CDLL(None, use_errno=True)

    def become(effective: int) -> bool:
        wanted = ctypes.c_uint32(effective)
        result: int = libc.syscall(ctypes.c_long(number), _SAME, wanted, _SAME)
        return result == 0

    if not become(uid):
        yield
        return
    try:
        yield
    finally:
        if not become(0):
            raise OsUserError("could not become root again after connecting as the server's user")
