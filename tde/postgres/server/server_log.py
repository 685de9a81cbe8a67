"""The log of a server whose output nobody has sent elsewhere.

The server logs statements, and statements hold rows. In the data directory the log would be
part of every base backup, as plaintext beside the ciphertext. So it lies beside the directory.
"""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path

from tde.errors import DataDirectoryError, UnsafeDirectoryError
from tde.ownership import create_file, is_out_of_reach
from tde.postgres.server.os_user import OsUser, can_access, run_as


def default_log(data_directory: Path, os_user: OsUser | None) -> Path:
    """Return ``<data directory>.log``, or server.log inside when the former cannot be made.

    Raises:
        DataDirectoryError: both names are taken by something that is no log of the server's user.
    """
    beside = data_directory.with_name(f"{data_directory.name}.log")
    inside = data_directory / "server.log"
    uid = os.geteuid() if os_user is None else os_user.uid
    usable = _is_log(beside, uid)
    if usable is None:
        usable = can_access(os_user, beside.parent, "-w") or (
            os_user is not None and is_out_of_reach(beside.parent)
        )
    if usable:
        return beside
    if _is_log(inside, uid) is False:
        raise DataDirectoryError(
            f"the server's log can be neither {beside} nor {inside}: something else has the name, "
            "a link or a file of another user",
            remedy="Look at both (ls -l). Remove what is not yours, or name a log with --log.",
        )
    return inside


def _is_log(path: Path, uid: int) -> bool | None:
    """Tell whether a file can be the log; ``None`` when there is none.

    In a shared directory such as /tmp somebody else may have put the name there. A second name
    (a hard link) may be that of any file of the server's user, and the log would be written to it.
    """
    try:
        found = path.lstat()
    except FileNotFoundError:
        return None
    return stat.S_ISREG(found.st_mode) and found.st_uid == uid and found.st_nlink == 1


def prepare_log(log: Path, os_user: OsUser | None) -> None:
    """Create an empty log of mode 0600 for the server's user; an existing one is left alone.

    What cannot be created is left to pg_ctl, whose message names the reason.
    """
    # The shell's noclobber creates exclusively: no link that appears meanwhile is followed.
    command: list[str | Path] = ["/bin/sh", "-c", 'umask 077; set -C; : > "$1"', "sh", log]
    if run_as(os_user, command).returncode != 0 and os_user is not None:
        with contextlib.suppress(OSError, UnsafeDirectoryError):
            create_file(log, os_user.owner)
