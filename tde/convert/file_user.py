"""Doing file work as the server's user while the process stays root.

The data directory belongs to an unprivileged user, who could exchange a directory or a file for a
link at any moment. Root that overwrites files there could be led to any file of the system. So
the threads that convert take that user's rights for files: whatever they are led to, they
can do no more than that user, and what they create belongs to it.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager

from tde.errors import OsUserError
from tde.postgres.server.os_user import OsUser

_INVALID = ctypes.c_uint32(-1).value


@contextmanager
def files_as(os_user: OsUser | None) -> Iterator[None]:
    """Give the current thread, and no other, the rights of ``os_user`` for files.

    setfsuid(2) acts on one thread, unlike seteuid, and makes the kernel drop root's power to pass
    over permissions until the identity is taken back.

    Raises:
        OsUserError: the kernel did not change the identity.
    """
    if os_user is None or os.geteuid() != 0:
        yield
        return
    _set_identity(os_user.uid, os_user.gid)
    try:
        yield
    finally:
        _set_identity(0, os.getegid())


def _set_identity(uid: int, gid: int) -> None:
    libc = ctypes.CDLL(None)
    # The group goes first and comes back last: only root may choose it.
    steps = [(libc.setfsgid, gid), (libc.setfsuid, uid)]
    for call, wanted in steps if uid else reversed(steps):
        call(ctypes.c_uint32(wanted))
        # The calls return no error; an impossible value only asks.
        if ctypes.c_uint32(call(ctypes.c_uint32(_INVALID))).value != wanted:
            raise OsUserError(f"cannot work on files as user {uid}: the kernel refused it")
