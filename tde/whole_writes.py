"""Writing to descriptors without leaving a part out."""

from __future__ import annotations

import os


def write_all(descriptor: int, data: bytes | bytearray) -> None:
    """Write everything; a disk that is nearly full takes a part before it refuses the rest.

    Raises:
        OSError: the rest cannot be written.
    """
    remaining = memoryview(data)
    while remaining:
        remaining = remaining[os.write(descriptor, remaining) :]
