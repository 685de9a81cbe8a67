"""Reading /proc/<pid> of a server that runs as another user.

The kernel lets only the owner, or root with CAP_SYS_PTRACE, look at the memory map and the
descriptors of a process. Root in an ordinary container lacks that capability, so the reading
is then done by a program that runs as the server's user.
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


def _run_as_owner(pid: int, command: list[str]) -> bytes:
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace")
    ids = {
        line.split(":")[0]: int(line.split()[2])  # The effective one of four.
        for line in status.splitlines()
        if line.startswith(("Uid:", "Gid:"))
    }
    result = subprocess.run(
        command,
        capture_output=True,
        check=False,
        cwd="/",
        user=ids["Uid"],
        group=ids["Gid"],
        extra_groups=[],
    )
    if result.returncode != 0:
        raise PermissionError(
            f"cannot run {command[0]} on process {pid}: {result.stderr.decode(errors='replace')}"
        )
    return result.stdout
