"""Files that are read once from first to last, out of a decompressor or an archive."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from tde.audit.inventory import AuditedFile, Content
from tde.audit.reading import Judge
from tde.audit.unpacking import ContentEndsEarly, DamagedContent, Readable


class StreamedFile:
    """A stored file, which nobody changes while it is read.

    Attributes:
        damage: why it is not what was stored, in words; empty when it is, or while it is read.
    """

    may_change = False

    def __init__(self, file: AuditedFile, stream: Readable, content: Content) -> None:
        self.file = file
        self.damage = ""
        self._stream = stream
        self._content = content
        self._length = 0
        # Against accidents: pgBackRest has put it into its lists and names.
        self._sha1 = hashlib.sha1(usedforsecurity=False) if content.sha1 else None

    def read(self, view: memoryview, offset: int) -> int:
        """Fill ``view`` with the next bytes and return how many there were."""
        assert offset == self._length, "a stream is read from first to last"
        done = 0
        try:
            while done < len(view) and (piece := self._stream.read(len(view) - done)):
                view[done : done + len(piece)] = piece
                done += len(piece)
        except DamagedContent as error:
            if not (self._content.may_end_early and isinstance(error, ContentEndsEarly)):
                self.damage = (
                    f"is damaged behind byte {self._length + done} of what it holds ({error})"
                )
        self._length += done
        if self._sha1 is not None:
            self._sha1.update(view[:done])
        if done < len(view) and not self.damage:
            self._compare()
        return done

    def _compare(self) -> None:
        content = self._content
        if content.may_end_early:
            return
        if content.size is not None and self._length != content.size:
            self.damage = f"holds {self._length:,} bytes where {content.size:,} were stored"
        elif self._sha1 is not None and self._sha1.hexdigest() != content.sha1:
            self.damage = f"has another SHA-1 than what was stored, {content.sha1}"

    def read_again(
        self, block: int, verdict: int, judge: Judge, settled: Callable[[int], bool]
    ) -> int | None:
        """Return the verdict on a block, which has not changed."""
        return verdict

    def tail_stays(self, block: int, is_bad: Callable[[bytes], bool]) -> bool:
        """Say that what was at the end of the file is still there."""
        return True
