"""One tde at a time starts, stops or creates a cluster."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tde.errors import ClusterBusyError
from tde.file_lock import lock_until


@contextmanager
def cluster_lock(
    data_directory: Path, *, timeout: float = 0, required: bool = False
) -> Iterator[None]:
    """Hold the lock of an existing data directory.

    The directory itself is locked: no file appears that base backups would copy, and the kernel
    frees the lock when its holder dies. Programs that are started meanwhile do not inherit it.

    Args:
        timeout: seconds to wait for another holder.
        required: refuse a file system that knows no locks. Without, the server's own
            postmaster.pid still keeps two servers apart; only the messages are less clear.

    Raises:
        ClusterBusyError: another process still holds it, or nothing can be locked.
    """
    deadline = time.monotonic() + timeout
    with ExitStack() as stack:
        descriptor = os.open(data_directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        stack.callback(os.close, descriptor)
        try:
            _lock(descriptor, data_directory, deadline)
        except OSError:
            # NFS locks no directories, but files that are open for writing, for all machines.
            try:
                path = data_directory / "PG_VERSION"
                descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
                stack.callback(os.close, descriptor)
                _lock(descriptor, data_directory, deadline)
            except OSError as error:
                if required:
                    raise ClusterBusyError(
                        f"{data_directory} cannot be locked against another tde: {error.strerror}",
                        remedy="Use a file system that has locks (NFS: mount it without nolock).",
                    ) from error
        yield


def _lock(descriptor: int, data_directory: Path, deadline: float) -> None:
    """Lock a file, waiting for other holders.

    Raises:
        ClusterBusyError: another process still holds it.
        OSError: the file system cannot lock it.
    """
    if not lock_until(descriptor, deadline):
        raise ClusterBusyError(
            f"the server in {data_directory} is being started, stopped or created by another tde "
            "command",
            remedy="Wait for that command, or interrupt it; see tde pg status.",
        )
