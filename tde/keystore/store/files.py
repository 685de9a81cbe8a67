"""Files of the keystore: private to one user, written whole or not at all, one writer at a time."""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from tde.errors import (
    KeystoreBusyError,
    KeystoreDamagedError,
    KeystoreError,
    KeystorePermissionError,
    KeystoreReadOnlyError,
)
from tde.file_lock import lock_until
from tde.file_rights import file_rights_of_owner
from tde.keystore.store.remedies import replace_key
from tde.ownership import Owner, create_directory
from tde.whole_writes import write_all

DIRECTORY_MODE = 0o700
FILE_MODE = 0o600
LOCK_NAME = "lock"
LOCK_TIMEOUT = 10.0  # Seconds; a writer holds the lock for about one key derivation.


def check_private_directory(path: Path) -> None:
    """Check that only its owner, who is this user or root, can use a directory.

    One of root's may be shared for reading with a group (:func:`check_mode`).

    Raises:
        FileNotFoundError, NotADirectoryError: there is no such directory; a link is none.
        KeystorePermissionError: others have access, or it is not ours.
    """
    try:
        # Not through a link: its target could be exchanged for another user's directory.
        status = path.lstat()
    except PermissionError as error:
        raise _no_access(path) from error
    if not stat.S_ISDIR(status.st_mode):
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path))
    # Root may work on the keystore of an unprivileged server. What is root's can be given to the
    # server by root alone, who reads its memory anyway.
    if os.geteuid() != 0 and status.st_uid != 0:
        check_owner(path, status, os.geteuid())
    check_mode(path, status, DIRECTORY_MODE)


def read_private_file(path: Path, limit: int, offset: int = 0) -> bytes:
    """Return the content of a file that only the owner of its directory can read.

    Args:
        path: a regular file inside a directory that was checked.
        limit: refuse files with more bytes than this.
        offset: how many bytes at the beginning are left out; the limit is for the others.

    Raises:
        FileNotFoundError, KeystoreError: as :func:`read_file_of`.
    """
    return read_file_of(path.parent.stat().st_uid, str(path), limit, offset)


def read_file_of(owner: int, path: str, limit: int, offset: int = 0) -> bytes:
    """Return the content of a file of the keystore; its owner is that of its directory.

    The path is text, because to read thousands of records as paths takes most of the time.

    Raises:
        FileNotFoundError: there is no such file.
        KeystorePermissionError: others have access, it has another owner than its
            directory, or it is not a regular file.
        KeystoreDamagedError: it is too long.
        KeystoreError: it cannot be read.
    """
    try:
        # O_NONBLOCK: opening a FIFO that somebody planted would otherwise wait for ever.
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        raise
    except PermissionError as error:
        raise _no_access(path) from error
    except OSError as error:
        raise KeystoreError(
            f"could not read {path}: {error.strerror}", remedy=_put_a_file(path)
        ) from error
    try:
        # The open file is examined, not its name, which could point elsewhere a moment later.
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise KeystorePermissionError(f"{path} is not a regular file", remedy=_put_a_file(path))
        check_owner(path, status, owner)
        check_mode(path, status, FILE_MODE)
        if offset:
            os.lseek(fd, offset, os.SEEK_SET)
        data = _read_up_to(fd, limit + 1)
    except OSError as error:
        raise KeystoreError(
            f"could not read {path}: {error.strerror}", remedy=_put_a_file(path)
        ) from error
    finally:
        os.close(fd)
    if len(data) > limit:
        raise KeystoreDamagedError(
            f"{path} is damaged: it has more than {limit} bytes",
            remedy=_put_a_file(path),
        )
    return data


def _put_a_file(path: str) -> str:
    if Path(path).parent.name == "keys":
        return f"A link is not followed. {replace_key(path)}"
    return "Put a file in its place, from a backup of the keystore; a link is not followed."


def _read_up_to(fd: int, size: int) -> bytes:
    data = os.read(fd, size)
    while 0 < len(data) < size:
        more = os.read(fd, size - len(data))
        if not more:
            break
        data += more
    return data


def make_private_directory(path: Path, owner: tuple[int, int]) -> None:
    """Create a directory of mode 0700 for ``owner`` (uid, gid)."""
    create_directory(path, Owner(*owner))
    sync_directory(path.parent)


def write_atomically(path: Path, data: bytes | bytearray) -> None:
    """Write a file so that a crash at any moment leaves either the old content or the new.

    The old content does not stay beside the new one: a passphrase that was given up would go on
    opening it. The caller holds the lock.

    Raises:
        KeystoreError: as :func:`write_all_atomically`.
    """
    write_all_atomically({path: data})


def write_all_atomically(files: Mapping[Path, bytes | bytearray]) -> None:
    """Write files of one directory, each whole or not at all, in their order.

    The names become durable together, which for thousands of files takes half the time. The
    caller holds the lock.

    Raises:
        KeystoreError: a file could not be written, and what was there before is untouched; those
            in front of it were written. Or, as its message says, all were written but might not
            survive a power failure.
    """
    for path, data in files.items():
        temporary = temporary_path(path)
        try:
            _write_new_file(temporary, data)
            temporary.rename(path)
        except OSError as error:
            with suppress(OSError):
                temporary.unlink()
            raise KeystoreError(
                f"could not write {path}: {error.strerror}",
                remedy="It was not changed. Remove the cause and repeat the command.",
            ) from error
    for directory in {path.parent for path in files}:
        try:
            sync_directory(directory)
        except OSError as error:
            names = ", ".join(str(path) for path in list(files)[:3])
            raise KeystoreError(
                f"wrote {names}, but could not make the name durable: {error.strerror}",
                remedy="After a power failure it may be gone, or be as it was before. Check the "
                "disk, then run `sync`.",
            ) from error


def temporary_path(path: Path) -> Path:
    """Return where the new content of ``path`` is prepared.

    The name is fixed, so that the remains of a process that died do not pile up.
    """
    return path.with_name(f".{path.name}.tmp")


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@contextmanager
def exclusive_lock(directory: Path, *, patience: float | None = None) -> Iterator[None]:
    """Hold the keystore's lock, with its owner's rights for files; two writers take turns.

    Args:
        patience: how many seconds it waits for others; `LOCK_TIMEOUT` by default.

    Raises:
        KeystoreBusyError: another process held the lock for so long.
        KeystoreReadOnlyError: nothing can be written to it.
        KeystorePermissionError: the lock file cannot be opened for writing.
    """
    require_writable(directory)
    # Root would follow whatever the server's user puts in the place of a directory meanwhile.
    with file_rights_of_owner(directory):
        fd = _open_lock(directory)
        try:
            wait_for_lock(fd, directory / LOCK_NAME, patience)
            yield
        except PermissionError as error:
            # Of root's rights and the owner's, these are the ones that count here.
            raise _no_access(error.filename or directory) from error
        finally:
            os.close(fd)


@contextmanager
def lock_of_messages(directory: Path) -> Iterator[None]:
    """As :func:`exclusive_lock`, to send what is not written to the keystore.

    In a read-only keystore no lock can be made, so its directory takes the place.

    Raises:
        KeystoreBusyError, KeystorePermissionError: as for that.
    """
    if not is_read_only(directory):
        with exclusive_lock(directory):
            yield
        return
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        wait_for_lock(fd, directory / LOCK_NAME)
        yield
    finally:
        os.close(fd)


def is_read_only(directory: Path) -> bool:
    """Tell whether nobody writes to a keystore, as its mode or its mount says.

    What root has shared with a group is never written to, not even by root: a new file would have
    to be given to the same group, and the next thing that is mounted in its place would lack it.
    """
    mode = stat.S_IMODE(directory.lstat().st_mode)
    if not mode & stat.S_IWUSR or mode & stat.S_IRWXG:
        return True
    return bool(os.statvfs(directory).f_flag & os.ST_RDONLY)


def require_writable(directory: Path) -> None:
    """Refuse to change a keystore that is read-only.

    Raises:
        KeystoreReadOnlyError: with what to do as the remedy.
    """
    if is_read_only(directory):
        raise KeystoreReadOnlyError(
            f"the keystore {directory} is read-only: it opens, and nothing can be changed in it",
            remedy="Make the change in the keystore that it was made from, and put that in its "
            "place (as a new secret or mount). If there is no other, copy it (cp -r), give the "
            "copy to the server's user (chown -R) and to nobody else (chmod -R u=rwX,go=).",
        )


def _open_lock(directory: Path) -> int:
    path = directory / LOCK_NAME
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        fd = os.open(path, flags, FILE_MODE)
    except PermissionError as error:
        raise _no_access(path) from error
    except OSError as error:
        raise KeystoreError(f"could not open {path}: {error.strerror}") from error
    try:
        status = os.fstat(fd)
        # A file with other names or with content is not the lock that root has just made.
        if stat.S_ISREG(status.st_mode) and status.st_nlink == 1 and status.st_size == 0:
            give_to_owner_of(directory, fd)
    except OSError as error:
        os.close(fd)
        raise KeystoreError(f"could not change the owner of {path}: {error.strerror}") from error
    return fd


def wait_for_lock(fd: int, path: Path, patience: float | None = None) -> None:
    """Lock an open file of the keystore.

    Args:
        patience: how many seconds it waits for others; `LOCK_TIMEOUT` by default.

    Raises:
        KeystoreBusyError: another process held the lock for so long.
    """
    patience = LOCK_TIMEOUT if patience is None else patience
    if not lock_until(fd, time.monotonic() + patience):
        raise KeystoreBusyError(
            f"another process has been writing to {path.parent} for {patience:.0f} seconds",
            remedy=f"See who holds {path} (`lslocks`), then try again.",
        )


def _write_new_file(path: Path, data: bytes | bytearray) -> None:
    # With the lock held, a temporary file can only be the remains of a process that died.
    path.unlink(missing_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
    with os.fdopen(os.open(path, flags, FILE_MODE), "wb", buffering=0) as file:
        give_to_owner_of(path.parent, file.fileno())
        write_all(file.fileno(), data)
        os.fsync(file.fileno())


def give_to_owner_of(directory: Path, fd: int) -> None:
    """Let root work on the keystore of an unprivileged server without taking files away."""
    if os.geteuid() == 0:
        status = directory.lstat()
        if not stat.S_ISDIR(status.st_mode):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(directory))
        os.fchown(fd, status.st_uid, status.st_gid)


def check_mode(path: Path | str, status: os.stat_result, wanted: int) -> None:
    """Refuse what the group or the world can read, write or enter.

    A group of this user's may read and enter what belongs to root: that is how a container, or
    root, gives a secret to a server that must not change it. Of the owner's own files another
    group's access would be an accident. The programs of tde pg install-bin have the same rule
    (c_ext/program/private.c).

    Raises:
        KeystorePermissionError: with the `chmod` that repairs it as the remedy.
    """
    mode = stat.S_IMODE(status.st_mode)
    if mode & 0o077 and not (status.st_uid == 0 and not mode & 0o027 and _is_ours(status.st_gid)):
        raise KeystorePermissionError(
            f"{path} is open to other users (mode {stat.S_IMODE(status.st_mode):04o})",
            remedy=f"chmod {wanted:04o} {path}",
        )


def _is_ours(group: int) -> bool:
    """Tell whether this user has a group; root looks at what it has given to another's group."""
    if os.geteuid() == 0:
        return group != 0
    return group == os.getegid() or group in os.getgroups()


def check_owner(path: Path | str, status: os.stat_result, owner: int) -> None:
    """Refuse what belongs to another user.

    Raises:
        KeystorePermissionError: with the `chown` that repairs it as the remedy.
    """
    if status.st_uid != owner:
        raise KeystorePermissionError(
            f"{path} belongs to user {status.st_uid} instead of user {owner}",
            remedy=f"chown {owner} {path}, or run this as the owner.",
        )


def _no_access(path: Path | str) -> KeystorePermissionError:
    return KeystorePermissionError(
        f"no permission to use {path}",
        remedy="Run this as the owner of the keystore or as root.",
    )


def refuse_link(path: Path) -> None:
    """Refuse what is there and no directory, which may be a link to another user's.

    Raises:
        KeystorePermissionError: it is.
    """
    if os.path.lexists(path) and not stat.S_ISDIR(path.lstat().st_mode):
        raise KeystorePermissionError(
            f"{path} is not a directory, or only a link to one",
            remedy=f"Remove it and repeat the command: rm {path}",
        ) from None
