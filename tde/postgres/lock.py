"""One tde at a time starts, stops or creates a cluster."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tde.errors import ClusterBusyError

_POLL = 0.1  # Seconds.


@contextmanager
def cluster_lock(data_directory: Path, *, timeout: float = 0) -> Iterator[None]:
    """Hold the lock of an existing data directory.

    The directory itself is locked: no file appears that base backups would copy, and the kernel
    frees the lock when its holder dies. Programs that are started meanwhile do not inherit it.

    Args:
        timeout: seconds to wait for another holder.

    Raises:
        ClusterBusyError: another process still holds it.
    """
    descriptor = os.open(data_directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _lock(descriptor, data_directory, time.monotonic() + timeout)
        yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int, data_directory: Path, deadline: float) -> None:
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise ClusterBusyError(
                    f"the server in {data_directory} is being started, stopped or created by "
                    "another tde command",
                    remedy="Wait for that command, or interrupt it; see tde pg status.",
                ) from None
            time.sleep(_POLL)
        except OSError:
            # NFS locks no directories. The server's own postmaster.pid still keeps two servers
            # apart; only the messages are less clear.
            return
        else:
            return
