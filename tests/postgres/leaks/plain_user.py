"""Running a part of a test as the server's user, who lacks root's privileges."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from typing import Any

from tde.postgres import OsUser


def as_plain_user(os_user: OsUser | None, function: Callable[[], Any]) -> Any:
    """Return what ``function`` returns in a child process of that user; raise what it raises."""
    if os_user is None:
        return function()
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        os.setgroups(os_user.groups)
        os.setresgid(os_user.gid, os_user.gid, os_user.gid)
        os.setresuid(os_user.uid, os_user.uid, os_user.uid)
        try:
            result = (True, function())
        except BaseException as error:
            result = (False, RuntimeError(repr(error)))
        with os.fdopen(writer, "wb") as file:
            pickle.dump(result, file)
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as file:
        content = file.read()
    os.waitpid(child, 0)
    succeeded, value = pickle.loads(content)
    if not succeeded:
        raise value
    return value
