"""Ending what an interrupted start of a server leaves running."""

from __future__ import annotations

import contextlib
from pathlib import Path

import psutil

from tde.machine.process_files import identity
from tde.postgres.server.published import read_published_status

_END_SECONDS = 10


def end_leftover_processes(data_directory: Path) -> None:
    """End server programs of this cluster that an interruption left behind.

    A launcher that was interrupted may have started a postmaster that has not written its
    postmaster.pid yet, and initdb a server that no argument gives away; but PostgreSQL's
    processes work in their data directory. It is this run's own, so that is proof enough.
    """
    left = []
    for process in psutil.process_iter(["cmdline", "cwd"]):
        arguments = process.info["cmdline"] or []
        in_place = process.info["cwd"] == str(data_directory)
        if in_place or str(data_directory) in arguments or _tells(process.pid, data_directory):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.terminate()
                left.append(process)
    _, alive = psutil.wait_procs(left, timeout=_END_SECONDS)
    for process in alive:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


def _tells(pid: int, data_directory: Path) -> bool:
    """Tell whether a server that hides its working directory publishes this one."""
    with contextlib.suppress(OSError):
        published = read_published_status(pid)
        return published is not None and published.directory == identity(data_directory.stat())
    return False
