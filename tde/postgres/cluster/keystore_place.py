"""The place of a keystore: apart from the data, and readable by the server."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from tde.errors import ClusterKeystoreError
from tde.machine.process_files import identity
from tde.postgres.server.os_user import OsUser, require_reachable


def require_keystore_access(keystore: Path, os_user: OsUser | None) -> None:
    """Check that the server, which reads the key records itself, can do so.

    It does so as its user, or by its group where the keystore is root's.

    Raises:
        ClusterKeystoreError: the keystore belongs to somebody else.
        UnreachablePathError: a parent directory is closed to the server's user.
    """
    require_reachable(os_user, keystore, "the keystore")
    uid = os.geteuid() if os_user is None else os_user.uid
    status = keystore.stat()
    if status.st_uid != uid and not _is_shared_with(status, os_user):
        owner = str(uid) if os_user is None else os_user.name
        raise ClusterKeystoreError(
            f"the keystore {keystore} does not belong to {owner}, the user that runs the server",
            remedy=f"Hand it over: chown -R {owner} {keystore}. Or let root keep it, for a server "
            f"that only reads it: chown -R root:GROUP {keystore}, with a group of {owner}'s, and "
            f"chmod -R u=rX,g=rX,o= {keystore}",
        )


def _is_shared_with(status: os.stat_result, os_user: OsUser | None) -> bool:
    """Tell whether a directory is root's and a group of the server's user may read it."""
    groups = {os.getegid(), *os.getgroups()} if os_user is None else {os_user.gid, *os_user.groups}
    mode = stat.S_IMODE(status.st_mode)
    return status.st_uid == 0 and mode & 0o050 == 0o050 and status.st_gid in groups


def require_separate(data_directory: Path, keystore: Path) -> None:
    """Refuse a keystore inside the data directory, or the other way round.

    Base backups and file-level copies of the cluster would carry the keys along.

    Raises:
        ClusterKeystoreError: they overlap.
    """
    data, keys = data_directory.resolve(), keystore.resolve()
    if keys.is_relative_to(data) or data.is_relative_to(keys):
        raise ClusterKeystoreError(
            f"the keystore {keystore} and the data directory {data_directory} overlap",
            remedy="Keep the keystore outside the data directory, best on another file system.",
        )


def is_of_keystore(path: Path, keystore: Path) -> bool:
    """Tell whether a path leads into the keystore, or is another name of a file in it.

    Args:
        path: need not exist.
    """
    # Not resolve(), which raises on links that lead to each other.
    place = Path(os.path.realpath(keystore))
    if Path(os.path.realpath(path)).is_relative_to(place):
        return True
    try:
        found = path.stat()
    except OSError:
        return False
    if found.st_nlink == 1:
        return False
    return any(identity(file.lstat()) == identity(found) for file in place.rglob("*"))


def require_not_of_keystore(path: Path, keystore: Path, what: str) -> None:
    """Refuse a file that a server would write, and that is one of the keystore.

    Args:
        what: names it in the message.

    Raises:
        ClusterKeystoreError: it is.
    """
    if is_of_keystore(path, keystore):
        raise ClusterKeystoreError(
            f"{what} leads to {os.path.realpath(path)}, into the keystore: the server would write "
            "over its keys",
            remedy=f"Name another place. If {path} is a link, or a line of the configuration that "
            "you do not know, find out who may write to the volume.",
        )
