"""Making the secret of a machine that a keystore is bound to."""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from pathlib import Path

from tde.errors import KeystoreError
from tde.file_rights import file_rights_of_owner
from tde.keystore.providers.bound_secret import require_apart
from tde.keystore.store.files import FILE_MODE, sync_directory
from tde.whole_writes import write_all

_BYTES = 32


def ensure_host_secret(file: Path, keystore: Path) -> bool:
    """Make a file of 32 random bytes for the owner of a keystore, unless there is a file.

    Returns:
        Whether it was made.

    Raises:
        ProviderError: its place is inside of a keystore or a data directory.
        KeystoreError: it cannot be made.
    """
    require_apart(file)
    if os.path.lexists(file):
        return False
    owner = keystore.stat()
    # A name of its own until it is whole: what was interrupted must not be taken for a secret, and
    # what another process makes at the same time is not ours.
    made = file.with_name(f".{file.name}.{secrets.token_hex(4)}.tmp")
    try:
        # Root would follow whatever the owner of the directory puts in the way.
        with file_rights_of_owner(file.parent):
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
            fd = os.open(made, flags, FILE_MODE)
            try:
                if os.fstat(fd).st_uid != owner.st_uid:
                    os.fchown(fd, owner.st_uid, owner.st_gid)
                write_all(fd, os.urandom(_BYTES))
                os.fsync(fd)
                os.link(made, file)  # Never over one that somebody has made meanwhile.
            finally:
                os.close(fd)
                with suppress(OSError):
                    made.unlink()
            sync_directory(file.parent)
    except FileExistsError:
        return False
    except OSError as error:
        raise KeystoreError(
            f"could not make the host secret {file}: {error.strerror}",
            remedy="Its directory must exist, and belong to root or to the owner of the keystore.",
        ) from error
    return True
