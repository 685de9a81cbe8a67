"""Directories that root makes for an unprivileged user, without being led astray by that user.

``chown`` by name follows links and hits whatever has the name by then. So whoever controls a
parent directory could have root give away any directory of the system. Here root lets the user
make the directory itself where that is possible. Otherwise every part of the path must be out
of everybody else's reach, and ownership is changed only through the open directory.
"""

from __future__ import annotations

import errno
import os
import stat
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tde.errors import UnsafeDirectoryError

PRIVATE = 0o700
_SHARED = 0o755
_PRIVATE_FILE = 0o600
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
_MAX_LINKS = 40  # As the kernel's own limit.


@dataclass(frozen=True)
class Owner:
    """A user that directories are made for."""

    uid: int
    gid: int
    groups: tuple[int, ...] = ()

    @property
    def is_current(self) -> bool:
        """Whether that is the user that runs this process."""
        return self.uid == os.geteuid()


def create_directory(path: Path, owner: Owner | None) -> None:
    """Make one directory of mode 0700 that belongs to ``owner`` (None: the current user).

    Raises:
        FileExistsError: there is something already; it is not touched.
        FileNotFoundError: the parent does not exist.
        UnsafeDirectoryError: only root may write to the parent, but others control a part of
            the path.
        OSError: the directory cannot be made.
    """
    if owner is None or owner.is_current:
        path.mkdir(mode=PRIVATE)
        # mkdir subtracts the umask, and one like 0277 would lock even the owner out.
        path.chmod(PRIVATE)
    elif not _made_by(owner, path, PRIVATE):
        with open_parent(path, owner) as parent:
            os.mkdir(path.name, PRIVATE, dir_fd=parent)
            _give(path, parent, owner)
    _make_durable(path)


def create_file(path: Path, owner: Owner) -> None:
    """Make an empty file of mode 0600 for ``owner`` where only root may write.

    Raises:
        FileExistsError: there is something already; it is not touched.
        UnsafeDirectoryError: others control a part of the path.
        OSError: the file cannot be made.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with open_parent(path, owner) as parent:
        descriptor = os.open(path.name, flags, _PRIVATE_FILE, dir_fd=parent)
        try:
            os.fchown(descriptor, owner.uid, owner.gid)
        finally:
            os.close(descriptor)


def is_out_of_reach(path: Path) -> bool:
    """Tell whether nobody but root can exchange any part of an existing path."""
    return _part_within_reach(path) is None


def create_parents(path: Path, owner: Owner | None) -> list[Path]:
    """Make the missing parents of ``path``, as :func:`create_directory` but of mode 0755.

    Those that only root can make stay root's.

    Returns:
        The directories that were made, the outermost first.
    """
    made = []
    for parent in reversed(path.parents):
        if parent.exists():
            continue
        if owner is None or owner.is_current:
            parent.mkdir(mode=_SHARED)
        elif not _made_by(owner, parent, _SHARED):
            with open_parent(parent, owner) as directory:
                os.mkdir(parent.name, _SHARED, dir_fd=directory)
        made.append(parent)
        _make_durable(parent)
    return made


def adopt_directory(path: Path, owner: Owner | None) -> None:
    """Make sure that an existing directory belongs to ``owner``, and outlives a power cut.

    Root gives it away only if it is empty and root's own, and nobody else could have put it or
    a link to it there. A directory of another user stays as it is.

    Raises:
        UnsafeDirectoryError: it belongs to somebody else and must not be given away.
        OSError: it is not a directory or cannot be opened.
    """
    if owner is not None and path.stat().st_uid != owner.uid:
        real = path.resolve() if is_out_of_reach(path) else path
        with open_parent(real, owner) as parent:
            _give(real, parent, owner)
    # Whoever made it a moment ago with mkdir has not synced it.
    _make_durable(path)


def _make_durable(path: Path) -> None:
    """Sync a directory and its name in its parent, where this user may read both.

    PostgreSQL syncs what it makes inside and never the directory's own name, so a power cut
    could take a tablespace whose creation is in the WAL already.
    """
    for directory in (path, path.parent):
        try:
            descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except PermissionError:
            continue  # A parent that may be written and not read.
        try:
            os.fsync(descriptor)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # As some network disks say.
                raise
        finally:
            os.close(descriptor)


def _made_by(owner: Owner, path: Path, mode: int) -> bool:
    """Let the user make a directory; tell whether it was allowed to."""
    if path.is_symlink() or path.exists():
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
    result = subprocess.run(
        ["/bin/mkdir", "-m", f"{mode:o}", "--", str(path)],
        env={"LC_ALL": "C"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        cwd="/",
        check=False,
        user=owner.uid,
        group=owner.gid,
        extra_groups=owner.groups,
    )
    if result.returncode == 0:
        return True
    for code in (errno.EACCES, errno.EPERM):
        if os.strerror(code) in result.stderr:
            return False
    for code in (errno.EEXIST, errno.ENOENT, errno.ENOSPC, errno.EROFS, errno.EDQUOT):
        if os.strerror(code) in result.stderr:
            raise OSError(code, os.strerror(code), str(path))
    raise OSError(errno.EIO, result.stderr.strip(), str(path))


@contextmanager
def open_parent(path: Path, owner: Owner) -> Iterator[int]:
    """Open the directory in which root may make a directory or a file for the user.

    It is either out of everybody's reach, or the user's own: whatever the user exchanges there
    meanwhile can only be an empty directory, which its owner could have removed anyway.
    """
    descriptor = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if os.fstat(descriptor).st_uid != owner.uid:
            part = _part_within_reach(path.parent)
            if part is not None:
                raise _refusal(path, owner, f"{part} is controlled by others than root")
        yield descriptor
    finally:
        os.close(descriptor)


def _give(path: Path, parent: int, owner: Owner) -> None:
    """Change the owner of an empty directory of the current user, and of nothing else."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        descriptor = os.open(path.name, flags, dir_fd=parent)
    except OSError as error:
        raise _refusal(path, owner, "it is not a real directory") from error
    try:
        with os.scandir(descriptor) as content:
            empty = next(content, None) is None
        if os.fstat(descriptor).st_uid != os.geteuid() or not empty:
            raise _refusal(path, owner, "it belongs to another user or is not empty")
        os.fchmod(descriptor, PRIVATE)
        os.fchown(descriptor, owner.uid, owner.gid)
    finally:
        os.close(descriptor)


def _part_within_reach(path: Path) -> Path | None:
    """Return the first part of an existing path that somebody besides root could exchange.

    A sticky directory such as /tmp is no such part, but a link in it is: its user may have
    linked it there without being its owner.
    """
    current, shared = Path("/"), _is_shared(Path("/"))
    pending: Sequence[str] = path.absolute().parts[1:]
    links = 0
    while pending:
        step, pending = current / pending[0], pending[1:]
        status = step.lstat()
        if status.st_uid != 0:
            return step
        if stat.S_ISLNK(status.st_mode):
            links += 1
            if shared or links > _MAX_LINKS:
                return step
            # What the link says may have links in it again, so all of it is walked.
            target = current / step.readlink()
            current, shared = Path("/"), _is_shared(Path("/"))
            pending = (*_without_dots(target).parts[1:], *pending)
            continue
        if status.st_mode & _OTHERS_WRITE and not status.st_mode & stat.S_ISVTX:
            return step
        current, shared = step, _is_shared(step)
    return None


def _is_shared(directory: Path) -> bool:
    return bool(directory.stat().st_mode & _OTHERS_WRITE)


def _without_dots(path: Path) -> Path:
    return Path(os.path.normpath(path))


def _refusal(path: Path, owner: Owner, reason: str) -> UnsafeDirectoryError:
    return UnsafeDirectoryError(
        f"{path} is not given to user {owner.uid}: {reason}",
        remedy="Create the directory yourself, empty, with mode 0700, as a real directory and "
        f"owned by user {owner.uid}; then repeat the command.",
    )
