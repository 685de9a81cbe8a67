"""Running a provider in a process of its own, with the keystore owner's rights and bounded time.

Which library, program and file a provider uses stands in an envelope, before anything could prove
that it is authentic. So root must not run it: whoever owns the keystore could have any program run
as root. A library of a token or a key server may also hang, and keep copies of keys in its memory:
both end with its process. Nor does it see what the command has in memory and in open files: the
child lets go of that before anything of the provider runs.
"""

from __future__ import annotations

import ctypes
import json
import os
import pwd
import select
import signal
import syslog
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from tde.child_process import Signals, ask_child, end_with, interrupt, wait_for
from tde.errors import (
    ProviderError,
    ProviderRefusedError,
    ProviderUnreachableError,
    TdeError,
)
from tde.keystore.crypto.secret import SecretBuffer, wipe, withhold_secrets
from tde.whole_writes import write_all

_ERRORS = (ProviderUnreachableError, ProviderRefusedError, ProviderError)
_RESULT, _ERROR = b"r", b"e"
_SECONDS_OF_OWNER = 10.0
_LONGEST_ANSWER = 64 * 1024
_PR_SET_DUMPABLE = 4
# What a program has to know of the user and his language, and what systemd gives to a service; the
# last two say where two PKCS#11 libraries have their configuration, which nothing else tells them.
_ENVIRONMENT = (
    *("PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LC_ALL", "LC_CTYPE", "TZ"),
    "CREDENTIALS_DIRECTORY",
    *("SOFTHSM2_CONF", "YUBIHSM_PKCS11_CONF"),
)
_libc = ctypes.CDLL(None, use_errno=True)


def unwrap_apart(
    directory: Path, timeout: float | None, unwrap: Callable[[], SecretBuffer], size: int
) -> SecretBuffer:
    """Return the secret of ``size`` bytes that ``unwrap`` returns; the caller closes it.

    Args:
        directory: the keystore's, whose owner's rights the process gets.
        timeout: seconds, as of :class:`~tde.keystore.providers.wrapper.KekProvider`.

    Raises:
        ProviderError: one of its subclasses.
    """
    answer = _run(directory, timeout, lambda: _content_of(unwrap()))
    try:
        if len(answer) != size:
            raise ProviderRefusedError(
                f"it gave {len(answer)} bytes instead of a key of {size} bytes",
                remedy="It has not unwrapped what it has wrapped; see its own log.",
            )
        secret = SecretBuffer(size)
        with secret.view as view:
            view[:] = answer
        return secret
    finally:
        wipe(answer)


def wrap_apart(
    directory: Path, timeout: float | None, wrap: Callable[[], bytes], kek: SecretBuffer
) -> bytes:
    """Return what ``wrap`` returns; other arguments and errors as :func:`unwrap_apart`.

    Args:
        kek: what it wraps, the only secret of this process that it can read.
    """
    return bytes(_run(directory, timeout, lambda: bytearray(wrap()), [kek]))


def as_owner(
    directory: Path, action: Callable[[], bytearray], needed: Sequence[SecretBuffer] = ()
) -> bytearray:
    """Return what a short action returns that is the keystore owner's: of root, in a child.

    Args:
        directory: the keystore's.
        needed: secrets that the action needs of this process.

    Raises:
        ProviderError: the child has failed.
    """
    if os.geteuid() != 0 or directory.stat().st_uid == 0:
        return action()
    return _run(directory, _SECONDS_OF_OWNER, action, needed)


def _content_of(secret: SecretBuffer) -> bytearray:
    with secret, secret.view as view:
        return bytearray(view)


def _run(
    directory: Path,
    timeout: float | None,
    action: Callable[[], bytearray],
    needed: Sequence[SecretBuffer] = (),
) -> bytearray:
    status = directory.stat()
    owner, parent = (status.st_uid, status.st_gid), os.getpid()

    def serve(writer: int, signals: Signals) -> None:
        _serve(writer, parent, signals, owner, timeout, action, needed)

    child, answer = ask_child(
        serve, lambda reader: _answer(reader, timeout), interrupt if timeout is None else _kill
    )
    # Who has answered has nothing left to do; what hangs, and its children, must not stay.
    (wait_for if timeout is None else _kill)(child)
    return answer


def _kill(child: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    os.kill(child, signal.SIGKILL)  # It may not have its group yet.
    os.waitpid(child, 0)


def _answer(reader: int, timeout: float | None) -> bytearray:
    until = None if timeout is None else time.monotonic() + timeout
    answer = bytearray(_LONGEST_ANSWER)
    length = 0
    try:
        while length < len(answer):
            left = None if until is None else max(0.0, until - time.monotonic())
            if not select.select([reader], [], [], left)[0]:
                raise ProviderUnreachableError(
                    f"it has not answered in {timeout:.0f} seconds",
                    remedy="See whether it, and the way to it, work.",
                )
            with memoryview(answer) as view:
                count = os.readv(reader, [view[length:]])
            if count == 0:
                break
            length += count
        kind = bytes(answer[:1])
        if kind == _RESULT:
            return answer[1:length]
        if kind == _ERROR:
            _raise(bytes(answer[1:length]))
        raise ProviderError(
            "its process died without an answer",
            remedy="A fault of the library that it uses: see the system's log.",
        )
    finally:
        wipe(answer)


def _raise(content: bytes) -> NoReturn:
    try:
        name, message, remedy = json.loads(content)
        found = {error.__name__: error for error in _ERRORS}[name]
    except (ValueError, KeyError, TypeError, RecursionError):
        # What is loaded into the child can write to the pipe as well.
        raise ProviderError(
            "its process gave an answer that is none of tde's",
            remedy="A fault of the library that it uses: see the system's log.",
        ) from None
    raise found(str(message), remedy=str(remedy))


def _serve(
    writer: int,
    parent: int,
    signals: Signals,
    owner: tuple[int, int],
    timeout: float | None,
    action: Callable[[], bytearray],
    needed: Sequence[SecretBuffer],
) -> None:
    """Do the work of the child."""
    try:
        withhold_secrets(needed)
        if timeout is not None:
            # A group of its own, so that it is ended with all that it has started, and no terminal:
            # what waits for a person would wait for ever in the background.
            os.setsid()
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            signal.signal(signal.SIGINT, signal.SIG_DFL)
        _close_inherited(writer)
        signal.pthread_sigmask(signal.SIG_SETMASK, signals)
        _become(*owner)
        _take_small_environment()
        # After the change of the user, which takes both back.
        _libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
        if not end_with(parent, signal.SIGINT if timeout is None else signal.SIGKILL):
            raise ProviderError("the command that asks has ended")
        answer = action()
        write_all(writer, _RESULT + answer)
        wipe(answer)
    except BaseException as error:
        known = isinstance(error, TdeError)
        kind = next((one for one in _ERRORS if isinstance(error, one)), ProviderError)
        # What another library says may hold anything, but no name of a class does.
        message = str(error) if known else f"a fault in it: {type(error).__name__}: {error}"
        remedy = error.remedy if isinstance(error, TdeError) else ""
        with suppress(OSError):
            content = json.dumps([kind.__name__, message[:4000], remedy]).encode()
            write_all(writer, _ERROR + content)


def _take_small_environment() -> None:
    """Drop what the environment of a command may hold: it is not the keystore owner's to see."""
    kept = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
    os.environ.clear()
    os.environ.update({"PATH": os.defpath, **kept})


def _close_inherited(kept: int) -> None:
    """Close what the command has open: its locks, its sockets, and files that root may read."""
    # Or the C library would write to what gets the number of its socket next.
    syslog.closelog()
    found = [int(file.name) for file in Path("/proc/self/fd").iterdir()]
    for fd in found:
        if fd > 2 and fd != kept:
            # The one that has listed them is gone.
            with suppress(OSError):
                os.close(fd)


def _become(uid: int, gid: int) -> None:
    """Take the rights of the keystore's owner, for good, where this is root."""
    if os.geteuid() != 0 or uid == 0:
        return
    try:
        user = pwd.getpwuid(uid)
        groups = os.getgrouplist(user.pw_name, gid)
        # Where its programs have their own configuration.
        os.environ.update(HOME=user.pw_dir, USER=user.pw_name, LOGNAME=user.pw_name)
    except KeyError:
        groups = [gid]
    os.setgroups(groups)
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
