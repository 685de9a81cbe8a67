"""The seal of a base backup: what it was when it was taken, under a key of the cluster's.

A manifest of pg_basebackup has a checksum of itself, which anybody can make anew. The seal has the
hash of the manifest, of the WAL beside it and of archives, and a code that only the keystore can
make. It lies beside the backup and not in it: PostgreSQL's own pg_verifybackup objects to files
that no manifest names.
"""

from __future__ import annotations

import errno
import hashlib
import hmac
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tde.audit.unpacking import open_stored
from tde.errors import BackupError
from tde.ownership import open_parent
from tde.postgres.server.os_user import OsUser
from tde.whole_writes import write_all

LABEL = b"tde backup seal"

_FORMAT = {"name": "tde-backup-seal", "version": 1}
_LARGEST = 64 << 20  # Bytes; each segment of WAL has a line.


@dataclass(frozen=True)
class Seal:
    """What a backup was when it was taken.

    Attributes:
        keystore_uuid: of the keystore that has its keys, in hexadecimal.
        keys: files of the keys that it needs, as they are named in the keystore.
        system_identifier: of the cluster.
        server_version: as the server calls it.
        form: ``tar``, ``plain`` or ``pgbackrest``.
        is_incremental: whether it needs the backups before it.
        began, ended: in UTC, as ISO 8601.
        files: by path in the backup, the SHA-256 of what the manifest does not tell: the manifest
            itself, WAL, and archives as they lie there. pgBackRest's are named in its repository.
    """

    keystore_uuid: str
    keys: tuple[str, ...]
    system_identifier: int
    server_version: str
    form: str
    is_incremental: bool
    began: str
    ended: str
    files: Mapping[str, str]

    def pack(self, key: bytes) -> bytes:
        """Return the content of the file."""
        document = {"format": _FORMAT, **asdict(self), "keys": list(self.keys)}
        return json.dumps({**document, "code": _code(document, key)}, indent=1).encode() + b"\n"


def seal_path(backup: Path) -> Path:
    """Return where the seal of a backup is: beside it, with its name."""
    return backup.with_name(f"{backup.name}.seal.json")


class NewSeal:
    """The file of a seal that is being made."""

    def __init__(self, directory: int, name: str, path: Path, descriptor: int) -> None:
        self._directory = directory
        self._name = name
        self.path = path
        self._descriptor = descriptor

    def write(self, content: bytes) -> None:
        """Write all of it, durably."""
        write_all(self._descriptor, content)
        os.fsync(self._descriptor)
        os.fsync(self._directory)

    def rename(self, name: str) -> None:
        """Give it its name, in the same directory.

        Raises:
            FileExistsError: there is something of that name.
        """
        with suppress(FileNotFoundError):
            os.stat(name, dir_fd=self._directory, follow_symlinks=False)
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), name)
        os.rename(self._name, name, src_dir_fd=self._directory, dst_dir_fd=self._directory)
        os.fsync(self._directory)
        self._name, self.path = name, self.path.with_name(name)

    def remove(self) -> None:
        """Take it away again."""
        with suppress(FileNotFoundError):
            os.unlink(self._name, dir_fd=self._directory)


@contextmanager
def new_seal(path: Path, os_user: OsUser | None) -> Iterator[NewSeal]:
    """Make the file of a seal before the backup, which may take hours; remove it when that fails.

    Raises:
        BackupError: it cannot be made, as where there is one already.
        UnsafeDirectoryError: root would make it where others could lead it elsewhere.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with ExitStack() as stack:
        try:
            directory = stack.enter_context(_directory_for(path, os_user))
            descriptor = os.open(path.name, flags, 0o600, dir_fd=directory)
            stack.callback(os.close, descriptor)
        except OSError as error:
            raise BackupError(
                f"the seal {path} cannot be made: {error.strerror}",
                remedy="That of an earlier backup may be in its place, or its directory may not be "
                "written to. Name another directory, or move that seal away.",
            ) from error
        seal = NewSeal(directory, path.name, path, descriptor)
        try:
            if os_user is not None:
                os.fchown(descriptor, os_user.uid, os_user.gid)
            yield seal
        except BaseException:
            seal.remove()
            raise


@contextmanager
def _directory_for(path: Path, os_user: OsUser | None) -> Iterator[int]:
    if os_user is not None:
        with open_parent(path, os_user.owner) as directory:
            yield directory
        return
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield directory
    finally:
        os.close(directory)


def read_seal(path: Path, key: bytes) -> Seal:
    """Return a seal whose code is right.

    Args:
        key: the keystore's, for the label.

    Raises:
        BackupError: it is missing, damaged or was altered, or is another cluster's.
    """
    document = read_unproven(path)
    code = document.pop("code", None)
    if not isinstance(code, str) or not hmac.compare_digest(code, _code(document, key)):
        raise BackupError(
            f"the seal {path} was altered, or is not of a cluster with this keystore",
            remedy="Do not restore this backup before you know why.",
        )
    document.pop("format")
    return Seal(**{**document, "keys": tuple(document["keys"])})


def read_unproven(path: Path) -> dict[str, Any]:
    """Return what a seal says, as long as nobody believes it: which keystore to look for.

    Raises:
        BackupError: it is missing or damaged.
    """
    try:
        with open_stored(path) as file:
            document = json.loads(file.read(_LARGEST))
    except FileNotFoundError as error:
        raise BackupError(
            f"the backup has no seal: there is no {path}",
            remedy="tde pg backup makes one. Of a backup without, tde pg audit --backup says "
            "whether it is ciphertext, and pg_verifybackup whether it is as the manifest says.",
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        raise BackupError(f"the seal {path} cannot be read: {error}") from error
    if not isinstance(document, dict) or document.get("format") != _FORMAT:
        raise BackupError(f"{path} is no seal of a backup that this tde knows")
    return document


def _code(document: Mapping[str, Any], key: bytes) -> str:
    """Return the code of a document, whose order and spaces do not count."""
    text = json.dumps(document, sort_keys=True, separators=(",", ":"))
    return hmac.new(key, text.encode(), hashlib.sha256).hexdigest()
