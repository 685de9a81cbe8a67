"""Programs on a terminal of their own, where they ask for a passphrase."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import subprocess
import termios
from collections.abc import Iterable, Mapping, Sequence

# Seconds after which a program that shows nothing is taken to wait for an answer for ever.
SILENCE = 120


def run_on_terminal(
    argv: Sequence[str], answers: Iterable[bytes], environment: Mapping[str, str] | None = None
) -> tuple[str, int]:
    """Run a program with a terminal of its own, giving one answer to each prompt for a passphrase.

    A prompt ends with `: ` and hides what is typed; other output may happen to end like that.

    Returns:
        What the terminal showed, and the exit code.

    Raises:
        AssertionError: it has shown nothing for two minutes.
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
            readable, _, _ = select.select([master], [], [], SILENCE)
            assert readable, f"nothing for {SILENCE} s after {shown.decode()!r}"
            try:
                chunk = os.read(master, 1024)
            except OSError:  # EIO: the program has closed the terminal.
                break
            shown += chunk
            # A prompt may arrive in pieces, so the end of all that was shown is looked at.
            if shown.endswith(b": ") and not _echoes(master):
                os.write(master, next(remaining, b""))
        return shown.decode(), process.wait(timeout=20)
    finally:
        os.close(master)
        process.kill()
        process.wait()


def _echoes(terminal: int) -> bool:
    local_flags: int = termios.tcgetattr(terminal)[3]
    return bool(local_flags & termios.ECHO)
