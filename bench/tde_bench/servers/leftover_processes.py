"""Ending what an interrupted start of a server leaves running."""

from __future__ import annotations

import contextlib
from pathlib import Path

import psutil

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
        if str(data_directory) in arguments or process.info["cwd"] == str(data_directory):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.terminate()
                left.append(process)
    _, alive = psutil.wait_procs(left, timeout=_END_SECONDS)
    for process in alive:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
