"""Reading files that a server may change, rename or remove at the same time."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from tde import _core
from tde.audit.inventory import AuditedFile

BLOCK = _core.BLOCK_SIZE
CHUNK = 1 << 20  # Bytes; a chunk that was just read is judged while it is in the cache.
MARGIN = 8192  # Bytes in front of a chunk, for what ended the one before it.

#: A block that is being written is seen whole soon after; these are the waits in seconds.
_WAITS = (0.0, 0.001, 0.005, 0.02, 0.1, 0.3, 0.6)
#: When so many blocks stay wrong, waiting has shown that nobody is writing them.
_PATIENCE = 4

_local = threading.local()

#: Takes stored blocks and the number of the first in the file, returns a verdict for each.
Judge = Callable[[memoryview, int], bytes]


class Stopped(Exception):
    """The audit was interrupted."""


def thread_buffer() -> bytearray:
    """Return this thread's buffer: a margin and a chunk."""
    if not hasattr(_local, "buffer"):
        _local.buffer = bytearray(MARGIN + CHUNK)
    buffer: bytearray = _local.buffer
    return buffer


class Source(Protocol):
    """What blocks are read from."""

    @property
    def file(self) -> AuditedFile:
        """The file that they belong to."""

    @property
    def may_change(self) -> bool:
        """Whether somebody may be writing the file."""

    def read(self, view: memoryview, offset: int) -> int:
        """Fill ``view`` from ``offset`` on and return how many bytes there were."""

    def read_again(
        self, block: int, verdict: int, judge: Judge, settled: Callable[[int], bool]
    ) -> int | None:
        """Judge one block again that has got a verdict."""

    def tail_stays(self, block: int, is_bad: Callable[[bytes], bool]) -> bool:
        """Look again at a short block at the end of the file."""


@dataclass
class OpenFile:
    """A file under audit, held open by ``descriptor``."""

    file: AuditedFile
    descriptor: int
    patience: int = field(default=_PATIENCE)

    @property
    def may_change(self) -> bool:
        """Whether a server may be writing the file."""
        return self.file.place.live

    def read(self, view: memoryview, offset: int) -> int:
        """Fill ``view`` from ``offset`` on and return how many bytes there were."""
        done = 0
        while done < len(view):
            count = os.preadv(self.descriptor, [view[done:]], offset + done)
            if count == 0:
                break
            done += count
        return done

    def is_current(self) -> bool:
        """Tell whether the name still leads to the file that is open.

        A relation may be dropped, and a segment be renamed and written for its new name.
        """
        try:
            now = self.file.path.stat()
        except FileNotFoundError:
            return False
        opened = os.fstat(self.descriptor)
        return (now.st_dev, now.st_ino) == (opened.st_dev, opened.st_ino)

    def read_again(
        self, block: int, verdict: int, judge: Judge, settled: Callable[[int], bool]
    ) -> int | None:
        """Judge one block again, several times if the server may be writing it.

        Args:
            settled: tells whether a verdict is final.

        Returns:
            The last verdict; ``None`` when the block, or the file of this name, is gone.
        """
        waits = _WAITS if self.file.place.live and self.patience > 0 else (0.0,)
        content = bytearray(BLOCK)
        for wait in waits:
            time.sleep(wait)
            if self.read(memoryview(content), block * BLOCK) < BLOCK:
                return None
            verdict = judge(memoryview(content), block)[0]
            if settled(verdict):
                return verdict
            if not self.is_current():
                return None
        self.patience -= 1
        return verdict

    def tail_stays(self, block: int, is_bad: Callable[[bytes], bool]) -> bool:
        """Look again at a short block at the end of the file until it is not bad or is gone."""
        for wait in _WAITS:
            time.sleep(wait)
            content = os.pread(self.descriptor, BLOCK, block * BLOCK)
            if not is_bad(content) or not self.is_current():
                return False
        return True
