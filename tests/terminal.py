"""Programs on a terminal of their own, where they ask for a passphrase."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import subprocess
import termios
import time
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
    process = _start(argv, slave, environment)
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


def interrupt_at_prompt(argv: Sequence[str]) -> tuple[str, int, bool]:
    """Run a program with a terminal of its own, and interrupt it where it asks for a passphrase.

    The signal is sent to the program alone, as by `kill`, and not to all processes at the terminal
    as by Ctrl-C.

    Returns:
        What the terminal showed, the exit code, and whether the terminal shows again what is typed.

    Raises:
        AssertionError: it has not asked within two minutes, or has ended.
        subprocess.TimeoutExpired: it goes on, 20 seconds after the signal.
    """
    master, slave = pty.openpty()
    process = _start(argv, slave, None)
    shown = b""
    try:
        until = time.monotonic() + SILENCE
        while not (shown.endswith(b": ") and not _echoes(slave)):
            assert time.monotonic() < until, f"no prompt after {shown.decode()!r}"
            if select.select([master], [], [], 0.1)[0]:
                shown += os.read(master, 1024)
            # The terminal is open here as well, and does not tell that the program is gone.
            assert process.poll() is None, f"no prompt in {shown.decode()!r}"
        process.send_signal(signal.SIGINT)
        code = process.wait(timeout=20)
        return shown.decode(), code, _echoes(slave)
    finally:
        process.kill()
        process.wait()
        os.close(slave)  # Only now: what reads from a terminal that is gone ends by itself.
        os.close(master)


def _start(
    argv: Sequence[str], terminal: int, environment: Mapping[str, str] | None
) -> subprocess.Popen[bytes]:
    def become_session_leader() -> None:
        # A shell starts background jobs with it ignored, and programs keep that.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.setsid()
        fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)

    return subprocess.Popen(
        argv,
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        preexec_fn=become_session_leader,
        env=environment,
    )


def _echoes(terminal: int) -> bool:
    local_flags: int = termios.tcgetattr(terminal)[3]
    return bool(local_flags & termios.ECHO)
