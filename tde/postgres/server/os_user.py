"""The operating-system user that runs a server, and running programs as that user.

PostgreSQL refuses to run as root. When ``tde`` runs as root (containers, CI, a system
administrator) every server program is therefore started as an unprivileged user; when it
runs as an ordinary user nothing changes and :func:`server_os_user` returns ``None``.
"""

from __future__ import annotations

import os
import pwd
import shlex
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

from tde.errors import OsUserError, ProgramError, UnreachablePathError
from tde.ownership import Owner

_FALLBACK_USERS = ("postgres", "nobody")
# initdb ends between two steps, of which each takes a second or two on a slow disk.
_SECONDS_TO_TAKE_BACK = 20.0


@dataclass(frozen=True)
class OsUser:
    """An unprivileged account, with what is needed to become it."""

    name: str
    uid: int
    gid: int
    groups: tuple[int, ...]
    home: str

    @property
    def owner(self) -> Owner:
        """This user as one that directories are made for."""
        return Owner(self.uid, self.gid, self.groups)

    @classmethod
    def from_passwd(cls, entry: pwd.struct_passwd) -> OsUser:
        """Build the description from an entry of the password database."""
        groups = tuple(os.getgrouplist(entry.pw_name, entry.pw_gid))
        return cls(entry.pw_name, entry.pw_uid, entry.pw_gid, groups, entry.pw_dir)


def server_os_user(data_directory: Path | None, *, name: str | None = None) -> OsUser | None:
    """Return the user that server programs must run as, or ``None`` for the current one.

    As root, the owner of an existing data directory wins, because the server refuses any
    other; then ``name``; then ``postgres``; then ``nobody``.

    Raises:
        OsUserError: ``name`` is unknown, is root, or does not own the data directory.
    """
    if os.geteuid() != 0:
        if name is not None and name != current_user_name():
            raise OsUserError(
                f"cannot run the server as {name}: only root can change the user",
                remedy="Run tde as that user, or leave --os-user out.",
            )
        return None
    owner = _owner_of(data_directory)
    if name is not None:
        chosen = _lookup(name)
        if owner is not None and owner.uid != chosen.uid:
            raise OsUserError(
                f"the data directory {data_directory} belongs to {owner.name}, not to {name}",
                remedy="The server must run as the owner of its data directory: "
                "leave --os-user out, or change the owner.",
            )
        return chosen
    return owner or _first_known(_FALLBACK_USERS)


def user_of_files(data_directory: Path) -> OsUser | None:
    """Return the user with whose rights root reads what a data directory leads to, else ``None``.

    That is the owner: a link there, or a name in one of its files, may lead anywhere.
    """
    return _owner_of(data_directory) if os.geteuid() == 0 else None


def current_user_name() -> str:
    """Return the name of the effective user, or its number when it has no name."""
    return user_name(os.geteuid())


def name_of_user(os_user: OsUser | None) -> str:
    """Return the name of the user that programs run as; ``None`` stands for the current one."""
    return current_user_name() if os_user is None else os_user.name


def user_name(uid: int) -> str:
    """Return the name of a user id, or the number as text when it has no name."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def run_as(
    os_user: OsUser | None,
    command: Sequence[str | Path],
    *,
    environment: Mapping[str, str] | None = None,
    pass_fds: Sequence[int] = (),
    cwd: Path | None = None,
    capture: bool = True,
    text: str = "",
    timeout: float | None = None,
    started: Callable[[], None] = lambda: None,
    apart: bool = False,
) -> subprocess.CompletedProcess[str]:
    """Run ``command`` as ``os_user`` (``None``: unchanged) and return its result.

    The working directory defaults to ``/``: the caller's own may be closed to the server's
    user, and PostgreSQL's programs complain when they cannot return to it. Ctrl-C ends the program
    with SIGTERM, and only if it does not end then with SIGKILL.

    Args:
        environment: the whole environment; the caller's own when ``None``.
        pass_fds: descriptors that stay open in the program.
        cwd: working directory of the program.
        capture: collect standard output and error as text instead of inheriting them.
        text: for the program's standard input.
        timeout: seconds to wait before :class:`subprocess.TimeoutExpired`.
        started: called once the program has its own copies of ``pass_fds``.
        apart: keep it from the terminal of this process: who has written the program, or named it,
            could type there.
    """
    output = subprocess.PIPE if capture else None
    with subprocess.Popen(
        [str(part) for part in command],
        env=user_environment(os_user, environment),
        pass_fds=tuple(pass_fds),
        cwd=cwd or "/",
        stdout=output,
        stderr=output,
        stdin=subprocess.PIPE if text else subprocess.DEVNULL if capture or apart else None,
        start_new_session=apart,
        text=True,
        errors="surrogateescape",  # As in a path, which the output may hold.
        user=None if os_user is None else os_user.uid,
        group=None if os_user is None else os_user.gid,
        extra_groups=None if os_user is None else os_user.groups,
    ) as process:
        try:
            started()
            stdout, stderr = process.communicate(text or None, timeout=timeout)
        except KeyboardInterrupt:
            _end(process)
            raise
        except BaseException:
            process.kill()  # As subprocess.run does; leaving the block waits for it.
            raise
        return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)


@contextmanager
def output_of(
    os_user: OsUser | None,
    command: Sequence[str | Path],
    *,
    environment: Mapping[str, str] | None = None,
) -> Iterator[BinaryIO]:
    """Yield what a program prints, as bytes while they come; its errors go where the caller's go.

    Raises:
        ProgramError: it has failed; what it has printed may not be all.
    """
    with subprocess.Popen(
        [str(part) for part in command],
        env=user_environment(os_user, environment),
        cwd="/",
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        start_new_session=True,
        user=None if os_user is None else os_user.uid,
        group=None if os_user is None else os_user.gid,
        extra_groups=None if os_user is None else os_user.groups,
    ) as process:
        try:
            assert process.stdout is not None  # As the type does not say.
            yield cast(BinaryIO, process.stdout)
        except BaseException:
            process.kill()
            raise
    if process.returncode != 0:
        raise ProgramError(f"{shlex.join(map(str, command))} has failed")


def _end(process: subprocess.Popen[str]) -> None:
    """End a program so that it can take back what it has begun, as initdb does."""
    process.terminate()
    try:
        process.communicate(timeout=_SECONDS_TO_TAKE_BACK)
    except (subprocess.TimeoutExpired, KeyboardInterrupt):
        process.kill()


def become(os_user: OsUser) -> None:
    """Give this process a user's identity for good, before it executes another program.

    Raises:
        PermissionError: it is not root's.
    """
    os.setgroups(os_user.groups)
    os.setresgid(os_user.gid, os_user.gid, os_user.gid)
    os.setresuid(os_user.uid, os_user.uid, os_user.uid)


def user_environment(
    os_user: OsUser | None, environment: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Return the environment for a program of ``os_user``: its home and name, not root's."""
    result = dict(os.environ if environment is None else environment)
    if os_user is not None:
        result.update(HOME=os_user.home, USER=os_user.name, LOGNAME=os_user.name)
    return result


def can_access(os_user: OsUser | None, path: Path, mode: str) -> bool:
    """Tell whether the user may access ``path``; ``mode`` is an operator of test(1), as ``-r``.

    The user itself is asked, so access control lists and root-squashing file systems count.
    """
    return run_as(os_user, ["/usr/bin/test", mode, path]).returncode == 0


def require_reachable(os_user: OsUser | None, path: Path, what: str) -> None:
    """Raise :class:`UnreachablePathError` unless the user can search the parents of ``path``.

    Args:
        what: how the message calls the path, for example ``"the keystore"``.
    """
    parents = [parent for parent in path.absolute().parents if _is_visible(parent)]
    # Whoever may search the last one may search those above it.
    if can_access(os_user, parents[0], "-x"):
        return
    for parent in reversed(parents):
        if not can_access(os_user, parent, "-x"):
            name = name_of_user(os_user)
            raise UnreachablePathError(
                f"{what} {path} cannot be reached by {name}: it may not search {parent}",
                remedy=f"Choose another place, or allow it with: chmod o+x {parent}",
            )


def _is_visible(path: Path) -> bool:
    try:
        path.stat()
    except OSError:  # Also where the current user may not search the parent, which is seen itself.
        return False
    return True


def _owner_of(path: Path | None) -> OsUser | None:
    """Return the owner of an existing path unless that is root, who can run no server."""
    if path is None:
        return None
    try:
        uid = path.stat().st_uid
    except FileNotFoundError:
        return None
    if uid == 0:
        return None
    try:
        return OsUser.from_passwd(pwd.getpwuid(uid))
    except KeyError:
        # A container volume often belongs to a number without a name; its gid is the safe guess.
        return OsUser(str(uid), uid, path.stat().st_gid, (), "/")


def _lookup(name: str) -> OsUser:
    try:
        user = OsUser.from_passwd(pwd.getpwnam(name))
    except KeyError:
        raise OsUserError(
            f'there is no operating-system user "{name}"',
            remedy="Create it, or name another one with --os-user.",
        ) from None
    if user.uid == 0:
        raise OsUserError(
            "PostgreSQL does not run as root", remedy="Name an ordinary user with --os-user."
        )
    return user


def _first_known(names: Sequence[str]) -> OsUser:
    for name in names:
        try:
            return OsUser.from_passwd(pwd.getpwnam(name))
        except KeyError:
            continue
    raise OsUserError(
        f"running as root and none of the users {', '.join(names)} exists",
        remedy="Create a user for PostgreSQL and name it with --os-user.",
    )
