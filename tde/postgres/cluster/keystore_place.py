"""The place of a keystore: apart from the data, and readable by the server."""

from __future__ import annotations

import os
from pathlib import Path

from tde.errors import ClusterKeystoreError
from tde.postgres.server.os_user import OsUser, require_reachable


def require_keystore_access(keystore: Path, os_user: OsUser | None) -> None:
    """Check that the server, which reads the key records itself, can do so.

    Raises:
        ClusterKeystoreError: the keystore belongs to somebody else.
        UnreachablePathError: a parent directory is closed to the server's user.
    """
    require_reachable(os_user, keystore, "the keystore")
    uid = os.geteuid() if os_user is None else os_user.uid
    if keystore.stat().st_uid != uid:
        owner = str(uid) if os_user is None else os_user.name
        raise ClusterKeystoreError(
            f"the keystore {keystore} does not belong to {owner}, the user that runs the server",
            remedy=f"Hand it over: chown -R {owner} {keystore}",
        )


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
