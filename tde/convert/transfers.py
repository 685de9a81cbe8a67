"""Reads and writes of whole ranges, whatever the system transfers at once."""

from __future__ import annotations

import os
from pathlib import Path

from tde.errors import ConversionError


def read_at(descriptor: int, view: memoryview, offset: int, path: Path) -> None:
    """Fill ``view`` from ``offset`` on.

    Raises:
        ConversionError: the file, which the message calls ``path``, ends before.
        OSError: it cannot be read.
    """
    done = 0
    while done < len(view):
        count = os.preadv(descriptor, [view[done:]], offset + done)
        if count == 0:
            raise ConversionError(
                f"{path} has become shorter", remedy="Restore the cluster from a backup."
            )
        done += count


def write_at(descriptor: int, data: memoryview | bytes, offset: int) -> None:
    """Write all of ``data`` from ``offset`` on.

    Raises:
        OSError: it cannot be written.
    """
    view = memoryview(data)
    done = 0
    while done < len(view):
        done += os.pwrite(descriptor, view[done:], offset + done)
