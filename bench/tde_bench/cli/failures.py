"""Errors that a run can end with, said in the words of whoever runs it."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from tde.errors import TdeError
from tde_bench.errors import BenchError

if TYPE_CHECKING:
    import psutil
    import psycopg2

_MAKE_SPACE = "Free some space, or use another disk with --directory."
_SERVER_GONE = (
    "the server ended the connection: it was stopped, was restarted, or died",
    "A full disk is a common reason. The log of a server that you run says more. Measure again.",
)


def in_plain_words(error: Exception) -> TdeError | None:
    """Return an error with a message for people, None for one that only a developer understands."""
    if isinstance(error, TdeError):
        return error
    if isinstance(error, subprocess.TimeoutExpired):
        return _of_program(error)
    if isinstance(error, OSError):
        return _of_system(error)
    # Imported here, because `--help` should not wait for them.
    import psutil
    import psycopg2

    if isinstance(error, psycopg2.Error):
        return _of_database(error)
    if isinstance(error, psutil.Error):
        return _of_process(error)
    return None


@contextmanager
def plain_errors() -> Iterator[None]:
    """Raise a :class:`~tde.errors.TdeError` in the place of what libraries raise.

    Raises:
        TdeError: what happened, where it can be said in plain words. Other errors pass unchanged.
    """
    try:
        yield
    except BrokenPipeError:
        raise  # Nobody reads the output any more, which is no failure.
    except Exception as error:
        plain = in_plain_words(error)
        if plain is None or plain is error:
            raise
        raise plain from error


def _of_program(error: subprocess.TimeoutExpired) -> BenchError:
    # Sequences are all that this project runs; the type allows for a line of a shell, too.
    program = error.cmd if isinstance(error.cmd, str) else os.fspath(error.cmd[0])
    return BenchError(
        f"{Path(program).name} did not end within {error.timeout:.0f} s",
        remedy="The machine may be overloaded, or its disk stuck. Measure when it is idle.",
    )


def _of_system(error: OSError) -> BenchError:
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    text = f"{error.filename}: {error.strerror}" if error.filename else str(error)
    return BenchError(text, remedy=_MAKE_SPACE if full else "")


def _of_process(error: psutil.Error) -> BenchError:
    import psutil

    number = getattr(error, "pid", None)
    if isinstance(error, psutil.NoSuchProcess):
        return BenchError(
            f"process {number} of a server has ended during the run", remedy=_SERVER_GONE[1]
        )
    if isinstance(error, psutil.AccessDenied):
        return BenchError(
            f"process {number} of a server may not be looked at",
            remedy="Measure as the server's user or as root.",
        )
    return BenchError(f"a process of a server cannot be looked at: {error}")


def _of_database(error: psycopg2.Error) -> BenchError:
    from tde_bench.servers.labelled_connections import label_of

    what, remedy = _explanation(error)
    label = label_of(error)
    return BenchError(f"{f'{label}: ' if label else ''}{what}\n{error}".strip(), remedy=remedy)


def _explanation(error: psycopg2.Error) -> tuple[str, str]:
    """Return what happened and what to do about it."""
    import psycopg2
    from psycopg2 import errors

    if isinstance(error, errors.DiskFull):
        return "the disk of the server is full", _MAKE_SPACE
    if isinstance(error, errors.ReadOnlySqlTransaction):
        return (
            "the server takes no writes: it is a standby, or default_transaction_read_only is on",
            "Name the primary, with a user who may write.",
        )
    if isinstance(error, errors.InsufficientPrivilege):
        return "the user lacks a right that the benchmark needs", "Connect as a superuser."
    if isinstance(error, errors.TooManyConnections):
        return "the server has no free connection", "Raise max_connections or lower --clients."
    gone = (errors.AdminShutdown, errors.CrashShutdown, errors.CannotConnectNow)
    # What a server says has a code. What libpq says of a lost connection has none, and comes as
    # one of several classes; ProgrammingError is psycopg2's own word for a wrong call.
    lost = error.pgcode is None and not isinstance(error, psycopg2.ProgrammingError)
    if isinstance(error, gone) or lost:
        return _SERVER_GONE
    return "the server refused a statement of the benchmark", ""
