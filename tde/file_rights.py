"""Doing file work with another user's rights while the process stays root.

A directory that belongs to an unprivileged user is in that user's hands: a file or a directory in
it can be exchanged for a link at any moment. Root that writes there could be led to any file of the
system. With the owner's rights it is led to nothing that the owner could not reach, and what it
creates belongs to the owner.
"""

from __future__ import annotations

import ctypes
import os
import platform
import pwd
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tde.errors import OsUserError
from tde.ownership import is_out_of_reach

_INVALID = ctypes.c_uint32(-1).value
# The C library's setgroups changes every thread of a process, so the kernel is asked directly.
_SETGROUPS = {"x86_64": 116, "aarch64": 159, "riscv64": 159, "ppc64le": 81, "s390x": 206}


@contextmanager
def file_rights_of(uid: int, gid: int, groups: Sequence[int], name: str) -> Iterator[None]:
    """Give the current thread, and no other, the rights of a user for files.

    setfsuid(2) acts on one thread, unlike seteuid, and makes the kernel drop root's power to pass
    over permissions until the identity is taken back. Root's groups go as well: a file that only
    its group may read is not the user's. Who is not root, and who is inside another such block,
    goes on as before.

    Raises:
        OsUserError: the kernel did not change the identity.
    """
    if uid == 0 or os.geteuid() != 0 or _file_user() != 0:
        yield
        return
    before = os.getgroups()
    try:
        _set_groups(groups, name)
        _set_identity(uid, gid)
        yield
    finally:
        _set_identity(0, os.getegid())
        _set_groups(before, "root")


@contextmanager
def file_rights_of_owner(directory: Path) -> Iterator[None]:
    """As :func:`file_rights_of`, for the owner of a directory; a link to one is not followed.

    Where root has put the directory out of its owner's reach, the owner can exchange nothing in it.
    """
    status = directory.lstat()
    try:
        name = pwd.getpwuid(status.st_uid).pw_name
        groups = os.getgrouplist(name, status.st_gid)
    except KeyError:
        name, groups = str(status.st_uid), [status.st_gid]
    identity = (status.st_uid, status.st_gid, groups, name)
    with file_rights_of(*identity):
        is_reachable = _can_look_at(directory)
    if not is_reachable and is_out_of_reach(directory.parent):
        yield
        return
    with file_rights_of(*identity):
        yield


@contextmanager
def own_file_rights() -> Iterator[None]:
    """Take the process's own rights for files back, for a while within :func:`file_rights_of`.

    Only to read, and what is in other hands: the owner may have no access to a backup of root's.

    Raises:
        OsUserError: the kernel did not change the identity.
    """
    uid = _file_user() if os.geteuid() == 0 else 0
    if uid == 0:
        yield
        return
    gid = ctypes.c_uint32(ctypes.CDLL(None).setfsgid(ctypes.c_uint32(_INVALID))).value
    _set_identity(0, os.getegid())
    try:
        yield
    finally:
        _set_identity(uid, gid)


def _can_look_at(path: Path) -> bool:
    try:
        path.lstat()
    except PermissionError:
        return False
    return True


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
