"""Passing the open keystore to a server: a sealed file in memory that its child inherits.

Layout, integers big-endian (the interposer reads it in C):

     0   8  magic "TDEHAND" and the format version, 1
     8   4  total length
    12   4  0; or 1 when sessions have to wait until the keystore is opened
    16  16  keystore UUID
    32  16  master key id
    48  32  master key
    80   2  length of the path
    82   n  the keystore's absolute path, not terminated
"""

from __future__ import annotations

import fcntl
import os
import struct
from pathlib import Path
from uuid import UUID

from tde.closing import Closing
from tde.errors import KeystoreError
from tde.keystore.crypto.secret import SecretBuffer, wipe

ENVIRONMENT_VARIABLE = "TDE_IO_KEYS_FD"
MAGIC = b"TDEHAND\x01"
_BEFORE_KEY = struct.Struct(">8sII16s16s")
_PATH_LENGTH = struct.Struct(">H")
_FIRST_FREE = 3  # Behind standard input, output and error.
_ALL_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE


class HandOver(Closing):
    """An inheritable file descriptor with the master key, for the time of one start.

    The pages of a memory file can be swapped out, unlike a :class:`SecretBuffer`, so leave
    the context as soon as the server has started: the memory is freed when the last
    descriptor closes, and the server closes its own after reading.

    Attributes:
        fd: the descriptor, positioned at the start; pass it to the child with `pass_fds`.
    """

    def __init__(
        self,
        keystore: UUID,
        master_key_id: UUID,
        master_key: SecretBuffer,
        path: Path,
        *,
        closed: bool = False,
    ) -> None:
        content = _pack(keystore, master_key_id, master_key, os.fsencode(path), closed)
        try:
            self.fd = _sealed_file(content)
        finally:
            wipe(content)

    @property
    def environment(self) -> dict[str, str]:
        """The variable that tells the interposer the number of the descriptor."""
        return {ENVIRONMENT_VARIABLE: str(self.fd)}

    def close(self) -> None:
        """Close the descriptor; closing again does nothing."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def _pack(
    keystore: UUID, master_key_id: UUID, master_key: SecretBuffer, path: bytes, closed: bool
) -> bytearray:
    with master_key.view as key:
        length = _BEFORE_KEY.size + len(key) + _PATH_LENGTH.size + len(path)
        # Filled in place: growing a bytearray would leave the key in the memory it moved from.
        content = bytearray(length)
        scope = (keystore.bytes, master_key_id.bytes)
        _BEFORE_KEY.pack_into(content, 0, MAGIC, length, int(closed), *scope)
        content[_BEFORE_KEY.size : _BEFORE_KEY.size + len(key)] = key
        _PATH_LENGTH.pack_into(content, _BEFORE_KEY.size + len(key), len(path))
        content[length - len(path) :] = path
    return content


def _above_standard_error(fd: int) -> int:
    """Move a descriptor out of 0 to 2, which pg_ctl gives to other files of the server.

    In a process whose standard input is closed, the next file that is opened gets its number.
    """
    if fd >= _FIRST_FREE:
        return fd
    try:
        moved = fcntl.fcntl(fd, fcntl.F_DUPFD, _FIRST_FREE)
    finally:
        os.close(fd)
    return moved


def _sealed_file(content: bytearray) -> int:
    try:
        # Without MFD_CLOEXEC, because the descriptor has to survive the exec of pg_ctl and sh.
        made = os.memfd_create("tde-keys", os.MFD_ALLOW_SEALING)
    except PermissionError as error:
        raise KeystoreError(
            "keys cannot be handed to a program, because the system call memfd_create is "
            "forbidden here",
            remedy="Allow it in the seccomp profile of the container or service "
            "(systemd: SystemCallFilter=); in `docker run`: --security-opt seccomp=FILE.",
        ) from error
    fd = _above_standard_error(made)
    try:
        if os.write(fd, content) != len(content):
            raise KeystoreError("there is not enough memory to hand the keys to the server")
        os.lseek(fd, 0, os.SEEK_SET)
        # A sealed file is the same for everybody who inherits it, however long they wait.
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _ALL_SEALS)
    except BaseException:
        os.close(fd)
        raise
    return fd
