"""Doing file work as the server's user while the process stays root.

The data directory belongs to an unprivileged user, who could exchange a directory or a file for a
link at any moment. Root that overwrites files there could be led to any file of the system. So
the threads that convert take that user's rights for files: whatever they are led to, they
can do no more than that user, and what they create belongs to it.
"""

from __future__ import annotations

import ctypes
import os
import platform
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from tde.errors import OsUserError
from tde.postgres.server.os_user import OsUser

_INVALID = ctypes.c_uint32(-1).value
# The C library's setgroups changes every thread of a process, so the kernel is asked directly.
_SETGROUPS = {"x86_64": 116, "aarch64": 159, "riscv64": 159, "ppc64le": 81, "s390x": 206}


@contextmanager
def files_as(os_user: OsUser | None) -> Iterator[None]:
    """Give the current thread, and no other, the rights of ``os_user`` for files.

    setfsuid(2) acts on one thread, unlike seteuid, and makes the kernel drop root's power to pass
    over permissions until the identity is taken back. Root's groups go as well: a file that only
    its group may read is not the user's. Inside another such block nothing changes.

    Raises:
        OsUserError: the kernel did not change the identity.
    """
    if os_user is None or os.geteuid() != 0 or _file_user() != 0:
        yield
        return
    groups = os.getgroups()
    try:
        _set_groups(os_user.groups, os_user.name)
        _set_identity(os_user.uid, os_user.gid)
        yield
    finally:
        _set_identity(0, os.getegid())
        _set_groups(groups, "root")


def _file_user() -> int:
    return ctypes.c_uint32(ctypes.CDLL(None).setfsuid(ctypes.c_uint32(_INVALID))).value


def _set_groups(groups: Sequence[int], name: str) -> None:
    """Give this thread other supplementary groups."""
    if sorted(set(os.getgroups())) == sorted(set(groups)):
        return
    number = _SETGROUPS.get(platform.machine())
    if number is None:
        raise OsUserError(
            f"cannot work on files as {name}: it is not known how a thread changes its groups on "
            f"{platform.machine()}",
            remedy="Run tde as the user that runs the server.",
        )
    libc = ctypes.CDLL(None, use_errno=True)
    wanted = (ctypes.c_uint32 * len(groups))(*groups)
    if libc.syscall(ctypes.c_long(number), ctypes.c_size_t(len(groups)), wanted) != 0:
        raise OsUserError(
            f"cannot work on files as {name}: its groups: {os.strerror(ctypes.get_errno())}",
            remedy="Run tde as the user that runs the server.",
        )


def _set_identity(uid: int, gid: int) -> None:
    libc = ctypes.CDLL(None)
    # The group goes first and comes back last: only root may choose it.
    steps = [(libc.setfsgid, gid), (libc.setfsuid, uid)]
    for call, wanted in steps if uid else reversed(steps):
        call(ctypes.c_uint32(wanted))
        # The calls return no error; an impossible value only asks.
        if ctypes.c_uint32(call(ctypes.c_uint32(_INVALID))).value != wanted:
            raise OsUserError(f"cannot work on files as user {uid}: the kernel refused it")
