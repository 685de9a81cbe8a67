"""A file system of its own, which is soon full; only root can make one."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tde.postgres import OsUser


@contextmanager
def small_disk(directory: Path, megabytes: int, os_user: OsUser | None) -> Iterator[Path]:
    """Mount one in a new directory, for the server's user; skip the test where nobody can."""
    directory.mkdir()
    options = f"size={megabytes}m"
    if os_user is not None:
        options += f",uid={os_user.uid},gid={os_user.gid}"
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(directory)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True).returncode != 0:
        pytest.skip("this user cannot mount a file system")
    try:
        yield directory
    finally:
        subprocess.run(["umount", "--lazy", str(directory)], check=True)
