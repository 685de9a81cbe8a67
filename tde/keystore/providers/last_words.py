"""What a command says on its standard error, without a wait for who else holds that open.

A program in the background, such as the master of a shared connection of ssh, keeps the standard
error of the command that has started it. Whoever reads a pipe to its end waits for such a program.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

_MOST_BYTES = 4096
_MOST_CHARACTERS = 300


class LastWords:
    """The standard error of a command, in memory.

    Attributes:
        fd: to be given to the command.
    """

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def text(self) -> str:
        """Return the end of what was said, as one line; empty when nothing was."""
        begin = max(0, os.fstat(self.fd).st_size - _MOST_BYTES)
        said = os.pread(self.fd, _MOST_BYTES, begin).decode(errors="replace")
        return " ".join(said.strip()[-_MOST_CHARACTERS:].split())


@contextmanager
def last_words() -> Iterator[LastWords]:
    """Keep what a command says, for as long as the block is entered."""
    fd = os.memfd_create("standard error")
    try:
        yield LastWords(fd)
    finally:
        os.close(fd)
