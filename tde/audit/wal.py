"""WAL segments: recycled ones hold the WAL of their former name.

The server renames an old segment to a future name and overwrites it from its start. What it has
not overwritten yet is ciphertext under the former name, which is found by trying the segments
that it can have been: a page that decrypts to the right WAL address proves it.
"""

from __future__ import annotations

from collections.abc import Sequence

from tde import _core
from tde.audit.reading import BLOCK, Source
from tde.audit.report import FindingKind
from tde.audit.tally import Tally
from tde.postgres.facts import MAJOR_VERSIONS

_OLDER_SEGMENTS = 1 << 16  # Of each timeline; trying them all takes some milliseconds.
_NEWER_SEGMENTS = 64  # A segment that was recycled before a switch of the timeline.
_TIMELINES = 8
# Searches that found nothing, before a segment's other blocks are left to the statistics.
_SEARCHES = 4
_FOUND_NOTHING = "decrypts neither under its name nor under an earlier one"


def segment_number(name: str, segment_bytes: int) -> int:
    """Return the number of a segment from the 24 digits of its name."""
    return int(name[8:16], 16) * ((1 << 32) // segment_bytes) + int(name[16:24], 16)


class WalSegment:
    """Judges the blocks of one segment, all of them, from first to last."""

    def __init__(self, source: Source, ciphers: Sequence[_core.Cipher], tally: Tally) -> None:
        control = source.file.place.control
        _, self._timeline, log, segment, _ = source.file.identity
        self._source = source
        self._ciphers = ciphers
        self._cipher = ciphers[0]
        self._tally = tally
        self._segment_bytes = control.wal_segment_bytes
        self._number = log * ((1 << 32) // self._segment_bytes) + segment
        self._magic = MAJOR_VERSIONS[source.file.place.major].wal_page_magic
        # Up to where recovery would start, the server has written every segment from its start.
        redo = segment_number(control.redo_segment, self._segment_bytes)
        self._complete = not source.file.name.startswith("pg_wal/") or (
            self._number <= redo and self._timeline == int(control.redo_segment[:8], 16)
        )
        self._former: list[tuple[int, int]] = []
        self._searches = _SEARCHES
        self._last_verified = -1
        self._recycled: list[int] = []
        self._unproven: list[int] = []

    def judge(self, blocks: memoryview, first: int) -> bytes:
        """Return the verdicts on whole blocks under the segment's own name."""
        if first == 0 and len(self._ciphers) > 1:
            self._choose_cipher(blocks[:BLOCK])
        return self._judge_with(self._cipher, blocks, first)

    def _judge_with(self, cipher: _core.Cipher, blocks: memoryview, first: int) -> bytes:
        identity = self._source.file.identity
        address = self._number * self._segment_bytes
        return cipher.audit_wal(blocks, identity, first, address, self._magic)

    def _choose_cipher(self, page: memoryview) -> None:
        """A segment's first page tells its key; one that was recycled keeps the newest."""
        for cipher in self._ciphers:
            if self._judge_with(cipher, page, 0) == bytes([_core.AUDIT_VERIFIED]):
                self._cipher = cipher
                return

    def saw(self, first: int, verdicts: bytes) -> None:
        """Remember how far the segment was written under its name."""
        last = verdicts.rfind(_core.AUDIT_VERIFIED)
        if last >= 0:
            self._last_verified = first + last

    def noise(self, block: int, start: bytes) -> None:
        """Look for the former name of a block that does not decrypt under this one."""
        (self._recycled if self._is_recycled(block, start) else self._unproven).append(block)

    def finish(self) -> None:
        """Count what was recycled, and report what cannot have been."""
        suspicious = [
            block
            for block in sorted((*self._recycled, *self._unproven))
            if self._complete and (block < self._last_verified or self._last_verified < 0)
        ]
        for block in suspicious:
            self._judge_again(block)
        ordinary = set(suspicious)
        self._tally.recycled += sum(block not in ordinary for block in self._recycled)
        self._tally.unproven += sum(block not in ordinary for block in self._unproven)

    def _judge_again(self, block: int) -> None:
        """The server may have written the block after it was read, and those behind it too."""
        good = (_core.AUDIT_ZERO, _core.AUDIT_VERIFIED)
        verdict = self._source.read_again(
            block, _core.AUDIT_NOISE, self.judge, lambda found: found in good
        )
        if verdict == _core.AUDIT_ZERO:
            self._tally.zero += 1
        elif verdict == _core.AUDIT_VERIFIED:
            self._tally.verified += 1
        elif verdict is not None:
            self._tally.add_issue(FindingKind.FOREIGN, block, self._note(block))

    def _note(self, block: int) -> str:
        if block not in self._recycled:
            return _FOUND_NOTHING
        timeline, number = self._former[0]
        return f"is ciphertext of the segment {self._name(timeline, number)}"

    def _name(self, timeline: int, number: int) -> str:
        per_log = (1 << 32) // self._segment_bytes
        return f"{timeline:08X}{number // per_log:08X}{number % per_log:08X}"

    def _is_recycled(self, block: int, start: bytes) -> bool:
        for timeline, number in self._former:
            if self._find(block, start, timeline, number, 1):
                return True
        if self._searches == 0:
            return False
        for timeline in range(self._timeline, max(0, self._timeline - _TIMELINES), -1):
            newest = self._number + _NEWER_SEGMENTS
            if self._find(block, start, timeline, newest, _OLDER_SEGMENTS):
                return True
        self._searches -= 1
        return False

    def _find(self, block: int, start: bytes, timeline: int, newest: int, count: int) -> bool:
        for cipher in self._ciphers:
            number = cipher.find_segment(
                start, block, timeline, newest, count, self._segment_bytes, self._magic
            )
            if number is not None:
                if (timeline, number) not in self._former:
                    self._former.append((timeline, number))
                return True
        return False
