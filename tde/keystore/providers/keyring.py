"""A key that the kernel keeps for a limited time, for restarts while a provider is away.

A key of type ``user`` lies in the kernel's own memory: it is in no file and is never swapped (only
``big_key`` uses a file system), and the kernel forgets it after its time, and at a restart of the
machine. Every process of the same user can read it meanwhile.
"""

from __future__ import annotations

import ctypes
import os
import platform

from tde.keystore.crypto.secret import SecretBuffer

# add_key(2) and keyctl(2), which the C library does not have.
_CALLS = {"x86_64": (248, 250), "aarch64": (217, 219), "riscv64": (217, 219)}
_USER_KEYRING = -4  # Of the user, whoever has logged in how often: a service finds it as well.
_PROCESS_KEYRING = -2  # Gone with the process.
_SET_PERM, _LINK, _UNLINK, _SEARCH, _READ, _SET_TIMEOUT = 5, 8, 9, 10, 11, 15
# All for who possesses the key; look, read, search, and set for the user's other processes. Without
# this only the session that has made it could read it.
_PERMISSIONS = 0x3F000000 | 0x000B0000
_TYPE = b"user"
_libc = ctypes.CDLL(None, use_errno=True)


def keep_key(name: str, key: SecretBuffer, seconds: int) -> None:
    """Let the kernel keep a key, in the place of one with this name.

    Raises:
        OSError: it refuses, as in many containers, or is no kernel that this is known for.
    """
    with key.view as view:
        content = (ctypes.c_char * len(view)).from_buffer(view)
        length = ctypes.c_size_t(len(view))
        serial = _call(0, _TYPE, name.encode(), content, length, _number(_PROCESS_KEYRING))
        del content
    try:
        # In this order, because a process that is killed here must not leave a key without an end.
        _call(1, _number(_SET_TIMEOUT), _number(serial), _number(seconds))
        _call(1, _number(_SET_PERM), _number(serial), _number(_PERMISSIONS))
        _call(1, _number(_LINK), _number(serial), _number(_USER_KEYRING))
    finally:
        _call(1, _number(_UNLINK), _number(serial), _number(_PROCESS_KEYRING))


def kept_key(name: str, size: int) -> SecretBuffer | None:
    """Return a key that the kernel keeps, None when it has none; the caller closes it."""
    try:
        serial = _find(name)
        secret = SecretBuffer(size)
        with secret.view as view:
            content = (ctypes.c_char * size).from_buffer(view)
            length = _call(1, _number(_READ), _number(serial), content, ctypes.c_size_t(size))
            del content
    except OSError:
        return None
    if length != size:
        secret.close()
        return None
    return secret


def forget_key(name: str) -> bool:
    """Take a key from the kernel; tell whether it had one."""
    try:
        _call(1, _number(_UNLINK), _number(_find(name)), _number(_USER_KEYRING))
    except OSError:
        return False
    return True


def _find(name: str) -> int:
    return _call(
        1, _number(_SEARCH), _number(_USER_KEYRING), _TYPE, name.encode(), ctypes.c_long(0)
    )


def _number(value: int) -> ctypes.c_long:
    return ctypes.c_long(value)


def _call(which: int, *arguments: object) -> int:
    numbers = _CALLS.get(platform.machine())
    if numbers is None:
        raise OSError(f"no system calls for keys are known on {platform.machine()}")
    result: int = _libc.syscall(ctypes.c_long(numbers[which]), *arguments)
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result
