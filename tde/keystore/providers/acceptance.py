"""Which envelopes are used without being named: those that were accepted on this machine.

Whoever can write to a keystore can put an envelope there, and what an envelope names is used before
anything could prove that the envelope is authentic: a command is run, a library loaded, a token
sent to a server. So such an envelope is used unasked only after somebody who had the master key in
hand has accepted what it says. That is kept outside of the keystore, where a writer of the keystore
does not reach: for all users in a directory of root's, and for one user in his home.

What is kept is no secret: a digest of what a rotation does not change.
"""

from __future__ import annotations

import errno
import os
import pwd
import re
import shlex
import stat
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from uuid import UUID

from tde.errors import KeystoreBusyError, KeystoreError, ProviderError
from tde.file_lock import lock_until
from tde.keystore.providers.wrapper import provider_class
from tde.keystore.store.document import canonical
from tde.keystore.store.envelope import EnvelopeHeader
from tde.keystore.store.files import FILE_MODE, sync_directory

VARIABLE = "TDE_ACCEPTED"
"""Names another directory in place of root's.

A directory and a file there count only if they belong to root or to the user as whom the provider
runs, and nobody else can write to them; so the environment of a command can make it forget what was
accepted, and can have nothing accepted.
"""
_PLACE = Path("/var/lib/tde/accepted")
# Not $XDG_STATE_HOME: a service, or root on behalf of this user, has another environment.
_PLACE_IN_HOME = Path(".local/state/tde/accepted")
_LOCK = ".lock"
_SECONDS_FOR_LOCK = 10.0
_PATH = re.compile(r"/[^\s'\"`;|&<>()=,]*")
_LONGEST = 64 * 1024  # Bytes; a line has about a hundred.


# Nobody has accepted anything there, or somebody has put something else in the place.
_SAYS_NOTHING = (errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.ELOOP)


def needs_acceptance(header: EnvelopeHeader) -> bool:
    """Tell whether an envelope has its provider do what whoever wrote the envelope chose.

    A provider says so of itself by ``is_safe_unasked``; one that says nothing is not.

    Raises:
        ProviderError: it is not installed.
    """
    is_safe = getattr(provider_class(header.type), "is_safe_unasked", None)
    return is_safe is None or not is_safe(header.parameters)


def require_accepted(directory: Path, header: EnvelopeHeader) -> None:
    """Refuse to use an envelope unasked that was not accepted on this machine, or asks people.

    Raises:
        ProviderError: it was not, or does.
    """
    if provider_class(header.type).timeout is None:
        # No envelope that tde makes is unattended then: somebody would have people asked.
        raise ProviderError(
            f"provider {header.name} ({header.type}) is passed over: people open it, so it is used "
            "only where it is named",
            remedy=f"Name it: --provider {header.name}",
        )
    if may_be_used_unasked(directory, header):
        return
    command = accept_command(directory, header.name)
    raise ProviderError(
        f"provider {header.name} ({header.type}) is passed over: it was not accepted on this "
        f"machine ({command})",
        remedy=f"It may run programs, so look at it first: tde keystore provider list. Then, with "
        f"the passphrase: {command}",
    )


def require_out_of_keystore(directory: Path, header: EnvelopeHeader) -> None:
    """Refuse an envelope that would have something run or read that lies in the keystore itself.

    Whoever can write to the keystore would exchange that, and what was accepted would be his. A
    path is also found in a shell command, unless the shell puts it together.

    Raises:
        ProviderError: a parameter names such a path.
    """
    keystore = os.path.realpath(directory)
    for name, value in header.parameters.items():
        for path in _PATH.findall(value):
            if Path(os.path.realpath(path)).is_relative_to(keystore):
                raise ProviderError(
                    f"{name} of provider {header.name} names {path}, which is in the keystore: "
                    "whoever can write to the keystore could exchange it",
                    remedy="Put it where only root, or the keystore's owner, can write, and name "
                    "that place.",
                )


def accept_command(directory: Path, name: str) -> str:
    """Return the command that accepts an envelope."""
    return f"tde keystore provider accept {name} --keystore {shlex.quote(str(directory))}"


def may_be_used_unasked(directory: Path, header: EnvelopeHeader) -> bool:
    """Tell whether an envelope needs no acceptance, or was accepted on this machine.

    Args:
        directory: the keystore's, whose owner runs the provider where this process is root.

    Raises:
        ProviderError: its provider is not installed, or what was accepted cannot be read.
    """
    return not needs_acceptance(header) or is_accepted(directory, header)


def is_accepted(directory: Path, header: EnvelopeHeader) -> bool:
    """Tell whether what an envelope says was accepted, by root or by who runs its provider.

    Raises:
        ProviderError: it cannot be told, because a file cannot be read.
    """
    user = _runs_as(directory)
    digest = _digest(header)
    return any(
        line.partition(" ")[0] == digest
        for place in _places(user)
        for line in _lines(place, header.keystore, user)
    )


def accept(header: EnvelopeHeader) -> Path:
    """Write down that an envelope may be used unasked, and return the file.

    The caller has checked, with the master key, that the envelope is the keystore's own.

    Raises:
        KeystoreBusyError: another process has held the lock of the place for ten seconds.
        KeystoreError: it cannot be written, or does not count because others could write it.
    """
    user = os.geteuid()
    place = _place_to_write(user)
    line = f"{_digest(header)} {header.name}"
    file = _change(
        place, header.keystore, user, lambda lines: [*(one for one in lines if one != line), line]
    )
    if line not in _lines(place, header.keystore, user):
        raise KeystoreError(
            f"{file} says now that provider {header.name} was accepted, and does not count: the "
            "directory or the file belongs to another user, or others can write to it",
            remedy=f"chown and chmod go-w {shlex.quote(str(place))}, and repeat the command.",
        )
    return file


def withdraw(keystore: UUID, name: str) -> None:
    """Accept envelopes of this name no more, as far as this user has accepted them."""
    user = os.geteuid()
    with suppress(KeystoreError):
        place = _place_to_write(user)
        if _lines(place, keystore, user):  # Or there is nothing, and no place to lock.
            _change(
                place,
                keystore,
                user,
                lambda lines: [line for line in lines if line.partition(" ")[2] != name],
            )


def _digest(header: EnvelopeHeader) -> str:
    fields = {
        "keystore": header.keystore.hex,
        "name": header.name,
        "type": header.type,
        "unattended": header.unattended,
        "level": header.level,
        "parameters": dict(sorted(header.parameters.items())),
    }
    return sha256(canonical(fields)).hexdigest()


def _runs_as(directory: Path) -> int:
    """Return the user that runs the providers of a keystore: see apart.py."""
    return directory.stat().st_uid if os.geteuid() == 0 else os.geteuid()


def _shared_place() -> Path:
    return Path(os.environ.get(VARIABLE) or _PLACE)


def _home_place(user: int) -> Path | None:
    try:
        home = Path(pwd.getpwuid(user).pw_dir)
    except KeyError:
        return None
    return home / _PLACE_IN_HOME if home.is_absolute() else None


def _places(user: int) -> list[Path]:
    """Return where it may stand that a provider may be used that runs as this user."""
    home = _home_place(user) if user else None
    return [_shared_place(), *([home] if home else [])]


def _place_to_write(user: int) -> Path:
    place = _shared_place() if user == 0 or VARIABLE in os.environ else _home_place(user)
    if place is None:
        raise KeystoreError(
            f"user {user} has no home, in which it is written what was accepted",
            remedy="Repeat the command as root.",
        )
    return place


def _lines(place: Path, keystore: UUID, user: int) -> list[str]:
    """Return what a file says; nothing, if another user than root and this one could write it.

    Raises:
        ProviderError: it is there, and the system cannot read it right now.
    """
    try:
        if not _is_trusted(os.lstat(place), stat.S_IFDIR, user):
            return []
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        fd = os.open(place / keystore.hex, flags)
    except OSError as error:
        if error.errno in _SAYS_NOTHING:
            return []
        raise ProviderError(
            f"{place / keystore.hex}, which says what was accepted on this machine, cannot be "
            f"read: {error.strerror}",
            remedy="Mend that, then repeat the command: nothing has to be accepted again.",
        ) from error
    with os.fdopen(fd, "rb") as file:
        if not _is_trusted(os.fstat(fd), stat.S_IFREG, user):
            return []
        return file.read(_LONGEST).decode("ascii", "replace").splitlines()


def _is_trusted(status: os.stat_result, kind: int, user: int) -> bool:
    by_others = stat.S_IWGRP | stat.S_IWOTH
    is_kind = stat.S_IFMT(status.st_mode) == kind
    return is_kind and status.st_uid in (0, user) and not status.st_mode & by_others


def _change(
    place: Path, keystore: UUID, user: int, changed: Callable[[list[str]], list[str]]
) -> Path:
    """Exchange what was accepted for what ``changed`` makes of it; two that do so take turns."""
    file = place / keystore.hex
    try:
        _make_directories(place)
        with _locked(place):
            before = _lines(place, keystore, user)
            after = changed(before)
            if after != before:
                _replace(file, after)
    except OSError as error:
        raise KeystoreError(
            f"{file}, which says what was accepted on this machine, cannot be written: "
            f"{error.strerror}",
            remedy="Make that directory writable, or run tde keystore provider accept as root.",
        ) from error
    return file


@contextmanager
def _locked(place: Path) -> Iterator[None]:
    # A file of its own: who may read a directory, as everybody may this one, may also lock it.
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    fd = os.open(place / _LOCK, flags, FILE_MODE)
    try:
        if not lock_until(fd, time.monotonic() + _SECONDS_FOR_LOCK):
            raise KeystoreBusyError(
                f"another command has held {place / _LOCK} for {_SECONDS_FOR_LOCK:.0f} seconds",
                remedy="Nothing was accepted. See what it does, and repeat the command.",
            )
        yield
    finally:
        os.close(fd)


def _replace(file: Path, lines: Sequence[str]) -> None:
    """Put a new file in the place of another, so that readers see one of the two, and whole."""
    fd, temporary = tempfile.mkstemp(prefix=f".{file.name}.", dir=file.parent)
    try:
        with os.fdopen(fd, "w", encoding="ascii") as new:
            new.writelines(f"{line}\n" for line in lines)
            new.flush()
            os.fchmod(fd, 0o644)  # The server's user reads what root has accepted.
            os.fsync(fd)
        Path(temporary).replace(file)
    except BaseException:
        Path(temporary).unlink()
        raise
    sync_directory(file.parent)


def _make_directories(place: Path) -> None:
    for directory in (*reversed(place.parents), place):
        with suppress(FileExistsError):
            directory.mkdir()
            directory.chmod(0o755)  # Whatever the umask is.
