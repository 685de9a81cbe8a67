"""Help for tests of whole runs: a directory, and a signal at the right moment."""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil

# Only a run that hangs needs this long, even on a busy machine.
DEADLINE_SECONDS = 400


@contextlib.contextmanager
def reachable_directory() -> Iterator[Path]:
    """A directory that the server's user can reach; pytest's own is private to this user."""
    path = Path(tempfile.mkdtemp(prefix="tde-bench-test-"))
    path.chmod(0o755)
    try:
        yield path
    finally:
        # A run that a failing test killed could not stop its servers itself.
        left = processes_of(path)
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(left, timeout=30)
        shutil.rmtree(path)


def processes_of(directory: Path) -> list[psutil.Process]:
    """Return the processes whose command lines name the directory, and their children."""
    found: dict[int, psutil.Process] = {}
    for process in psutil.process_iter(["cmdline"]):
        if str(directory) in " ".join(process.info["cmdline"] or []):
            found[process.pid] = process
            # The children of a postmaster name only what they do.
            with contextlib.suppress(psutil.NoSuchProcess):
                found.update({child.pid: child for child in process.children(recursive=True)})
    return list(found.values())


def interrupt(
    process: subprocess.Popen[str], number: signal.Signals, reached: Callable[[], bool]
) -> str:
    """Send a signal once a state is reached; return standard error after the end."""
    return when_reached(process, reached, lambda: process.send_signal(number))[1]


def when_reached(
    process: subprocess.Popen[str], reached: Callable[[], bool], act: Callable[[], None]
) -> tuple[str, str]:
    """Act once a state is reached; return standard output and standard error after the end."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    try:
        while not reached():
            assert process.poll() is None, "the run ended too early"
            assert time.monotonic() < deadline, "the run did not get far enough"
            time.sleep(0.05)
        act()
        return process.communicate(timeout=DEADLINE_SECONDS)
    finally:
        process.kill()


def read_document(file: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {"runs": []}
    return document
