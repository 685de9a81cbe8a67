"""Programs on a terminal of their own, where they ask for a passphrase."""

from __future__ import annotations

import fcntl
import os
import pty
import signal
import subprocess
import termios
from collections.abc import Iterable, Mapping, Sequence


def run_on_terminal(
    argv: Sequence[str], answers: Iterable[bytes], environment: Mapping[str, str] | None = None
) -> tuple[str, int]:
    """Run a program with a terminal of its own, giving one answer to each prompt (`: `).

    Returns:
        What the terminal showed, and the exit code.
    """
    remaining = iter(answers)
    master, slave = pty.openpty()

    def become_session_leader() -> None:
        # A shell starts background jobs with it ignored, and programs keep that.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.setsid()
        fcntl.ioctl(slave, termios.TIOCSCTTY, 0)

    process = subprocess.Popen(
        argv,
        stdin=slave,
        stdout=slave,
        stderr=slave,
        preexec_fn=become_session_leader,
        env=environment,
    )
    os.close(slave)
    shown = b""
    try:
        while True:
            try:
                chunk = os.read(master, 1024)
            except OSError:  # EIO: the program has closed the terminal.
                break
            shown += chunk
            # A prompt may arrive in pieces, so the end of all that was shown is looked at.
            if shown.endswith(b": "):
                os.write(master, next(remaining, b""))
        return shown.decode(), process.wait(timeout=20)
    finally:
        os.close(master)
        process.kill()
        process.wait()
