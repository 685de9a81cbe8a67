"""Reading /proc/<pid> of a server that runs as another user.

The kernel lets only the owner, or root with CAP_SYS_PTRACE, look at the memory map and the
descriptors of a process. Root in an ordinary container lacks that capability, so the reading
is then done by a program that runs as the server's user. A server with keys is closed to that
user as well; tde.postgres.server.published says where it describes itself.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path


def read_process_file(pid: int, name: str) -> bytes:
    """Return the content of ``/proc/<pid>/<name>``.

    Raises:
        OSError: the process is gone, or its files may not be read.
    """
    path = Path(f"/proc/{pid}/{name}")
    try:
        return path.read_bytes()
    except PermissionError:
        return _run_as_owner(pid, ["cat", str(path)])


def working_directory(pid: int) -> tuple[int, int]:
    """Return the device and the inode of the directory that a process runs in.

    Raises:
        OSError: the process is gone, or may not be looked at.
    """
    path = Path(f"/proc/{pid}/cwd")
    try:
        return identity(path.stat())
    except PermissionError:
        device, inode = _run_as_owner(pid, ["stat", "-L", "-c", "%d %i", str(path)]).split()
        return int(device), int(inode)


def identity(status: os.stat_result) -> tuple[int, int]:
    """Return what tells a file from every other one: its device and inode."""
    return status.st_dev, status.st_ino


def process_descriptors(pid: int) -> dict[int, str]:
    """Return what each open descriptor of a process refers to, by descriptor number.

    Raises:
        OSError: the process is gone, or its descriptors may not be listed.
    """
    directory = Path(f"/proc/{pid}/fd")
    targets: dict[int, str] = {}
    try:
        for entry in directory.iterdir():
            try:
                targets[int(entry.name)] = str(entry.readlink())
            except FileNotFoundError:
                continue  # Closed since the directory was read.
    except PermissionError:
        listing = _run_as_owner(pid, ["find", str(directory), "-type", "l", "-printf", "%f %l\\n"])
        for line in listing.decode(errors="replace").splitlines():
            number, _, target = line.partition(" ")
            targets[int(number)] = target
    return targets


def process_user(pid: int) -> int:
    """Return the effective user id of a process, which everybody may ask for.

    Raises:
        OSError: the process is gone.
    """
    return _owner_ids(pid)[0]


def start_time(pid: int) -> int:
    """Return when a process started, in clock ticks since the machine did.

    Raises:
        OSError: the process is gone.
    """
    # The second field is a name, which may hold spaces and parentheses.
    fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    return int(fields[19])  # Field 22 of proc(5).


def forbids_access(pid: int) -> bool:
    """Tell whether a process is not dumpable: no core dumps, and its memory is closed.

    The kernel gives the files of such a process in /proc to root.

    Raises:
        OSError: the process is gone.
    """
    user = process_user(pid)
    return user != 0 and Path(f"/proc/{pid}/environ").stat().st_uid != user


def read_as_owner(uid: int, path: Path) -> bytes:
    """Return the content of a file that only its owner, whom root can become, may read.

    Raises:
        OSError: it may not be read.
    """
    return _run_as(uid, os.getegid(), ["cat", str(path)])


def _owner_ids(pid: int) -> tuple[int, int]:
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace")
    ids = {
        line.split(":")[0]: int(line.split()[2])  # The effective one of four.
        for line in status.splitlines()
        if line.startswith(("Uid:", "Gid:"))
    }
    return ids["Uid"], ids["Gid"]


def _run_as_owner(pid: int, command: list[str]) -> bytes:
    return _run_as(*_owner_ids(pid), command)


def _run_as(uid: int, gid: int, command: list[str]) -> bytes:
    result = subprocess.run(
        command,
        capture_output=True,
        check=False,
        cwd="/",
        user=uid,
        group=gid,
        extra_groups=[],
    )
    if result.returncode != 0:
        raise PermissionError(
            f"cannot run {command[0]} as user {uid}: {result.stderr.decode(errors='replace')}"
        )
    return result.stdout
