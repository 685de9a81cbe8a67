"""Doing file work as the server's user while the process stays root (:mod:`tde.file_rights`)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tde.file_rights import file_rights_of
from tde.postgres.server.os_user import OsUser


@contextmanager
def files_as(os_user: OsUser | None) -> Iterator[None]:
    """Give the current thread, and no other, the rights of ``os_user`` for files.

    Raises:
        OsUserError: the kernel did not change the identity.
    """
    if os_user is None:
        yield
        return
    with file_rights_of(os_user.uid, os_user.gid, os_user.groups, os_user.name):
        yield
