"""Judging one stretch of one file."""

from __future__ import annotations

import os
import re
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from tde import _core
from tde.audit.inventory import AuditedFile, Content
from tde.audit.keys import Protection
from tde.audit.randomness import looks_random
from tde.audit.reading import BLOCK, CHUNK, MARGIN, OpenFile, Source, Stopped, thread_buffer
from tde.audit.report import FileClass, FindingKind
from tde.audit.streaming import StreamedFile
from tde.audit.tally import Tally
from tde.audit.unpacking import Readable, unpacked
from tde.audit.wal import WalSegment
from tde.page.identity import Fork

#: More hits in one stretch say nothing new.
_MAXIMUM_CANARIES = 20
#: A compressed file that is being made is whole soon after; these are the waits in seconds.
_WAITS = (0.2, 1.0, 0.0)
_ZERO = bytes([_core.AUDIT_ZERO])
_ZEROS = re.compile(re.escape(_ZERO) + b"+")
_GOOD = (_core.AUDIT_ZERO, _core.AUDIT_VERIFIED)
_KINDS = {
    _core.AUDIT_PLAIN_PAGE: FindingKind.PLAIN_PAGE,
    _core.AUDIT_NOT_RANDOM: FindingKind.PLAINTEXT,
    _core.AUDIT_BAD_CHECKSUM: FindingKind.BAD_CHECKSUM,
    _core.AUDIT_NOISE: FindingKind.FOREIGN,
}


@dataclass(frozen=True)
class Stretch:
    """Some whole blocks of a file, the last stretch with whatever is at its end."""

    file: AuditedFile
    start: int
    length: int


@dataclass(frozen=True)
class Task:
    """What is needed to judge stretches.

    Attributes:
        needles: byte strings to search for.
        explain: says what a block that decrypts to noise is, if that can be found out.
        stop: set when the audit was interrupted.
    """

    protection: Protection
    needles: tuple[bytes, ...]
    explain: Callable[[AuditedFile, int, bytes], str]
    stop: threading.Event


def scan(stretch: Stretch, task: Task) -> Tally:
    """Read a stretch and judge every block of it.

    Raises:
        OSError: it cannot be read.
        Stopped: the audit was interrupted.
    """
    if stretch.file.content is not None:
        return _scan_stored(stretch.file, stretch.file.content, task)
    try:
        descriptor = os.open(stretch.file.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        return Tally(exists=False)
    try:
        return _Scan(OpenFile(stretch.file, descriptor), task).run(stretch)
    finally:
        os.close(descriptor)


def _scan_stored(file: AuditedFile, content: Content, task: Task) -> Tally:
    """Unpack a file and judge it; one that is being written may end early, and is read again."""
    for wait in _WAITS:
        try:
            before = file.path.stat()
            with unpacked(file.path, content.compression, content.part) as stream:
                tally = scan_stream(file, stream, content, task)
            if not tally.damage or file.path.stat().st_mtime_ns == before.st_mtime_ns:
                break
        except FileNotFoundError:
            return Tally(exists=False)
        time.sleep(wait)
    return tally


def scan_stream(file: AuditedFile, stream: Readable, content: Content, task: Task) -> Tally:
    """Read a file from a stream to its end and judge every block of it.

    Raises:
        OSError: it cannot be read.
        Stopped: the audit was interrupted.
    """
    source = StreamedFile(file, stream, content)
    tally = _Scan(source, task).run(Stretch(file, 0, sys.maxsize))
    tally.damage = source.damage
    return tally


class _Scan:
    """The state of one scan."""

    def __init__(self, source: Source, task: Task) -> None:
        self.source = source
        self.file = source.file
        self.task = task
        self.tally = Tally()
        self.segment: WalSegment | None = None
        if self.file.file_class is FileClass.WAL and task.protection.cipher is not None:
            ciphers = (task.protection.cipher, *task.protection.other_ciphers)
            self.segment = WalSegment(source, ciphers, self.tally)

    def run(self, stretch: Stretch) -> Tally:
        buffer = memoryview(thread_buffer())
        position = stretch.start
        end = stretch.start + stretch.length
        margin = self._read_margin(buffer, position)
        while position < end:
            if self.task.stop.is_set():
                raise Stopped
            wanted = min(CHUNK, end - position)
            count = self.source.read(buffer[MARGIN : MARGIN + wanted], position)
            self._judge(buffer[MARGIN : MARGIN + count], position)
            self._search(buffer, margin, count, position)
            self.tally.bytes += count
            if count < wanted:
                break  # Truncated since it was listed.
            position += count
            margin = min(MARGIN, position)
            buffer[MARGIN - margin : MARGIN] = buffer[MARGIN + count - margin : MARGIN + count]
        if self.segment is not None:
            self.segment.finish()
        return self.tally

    def _read_margin(self, buffer: memoryview, position: int) -> int:
        """Put what is in front of the stretch in front of the chunk, for searches only."""
        margin = min(MARGIN, position) if self.task.needles else 0
        if margin:
            self.source.read(buffer[MARGIN - margin : MARGIN], position - margin)
        return margin

    def _judge(self, chunk: memoryview, position: int) -> None:
        if self.file.file_class in (FileClass.PLAIN, FileClass.UNKNOWN):
            return
        if self.file.file_class is FileClass.RELATION and self.task.protection.cipher is None:
            return
        whole = len(chunk) - len(chunk) % BLOCK
        first = position // BLOCK
        verdicts = self._verdicts(chunk[:whole], first)
        tally = self.tally
        tally.zero += verdicts.count(_core.AUDIT_ZERO)
        if self.file.file_class is FileClass.RELATION:
            self._note_zeros(first, verdicts)
        good = verdicts.count(_core.AUDIT_VERIFIED)
        if self.file.file_class is FileClass.EPHEMERAL:
            tally.random += good
        else:
            tally.verified += good
        if self.segment is not None:
            self.segment.saw(first, verdicts)
        if any(verdict not in _GOOD for verdict in set(verdicts)):
            for index, verdict in enumerate(verdicts):
                if verdict not in _GOOD:
                    self._bad_block(first + index, verdict, chunk[index * BLOCK :][:BLOCK])
        if whole < len(chunk):
            self._judge_tail(first + whole // BLOCK, bytes(chunk[whole:]))

    def _note_zeros(self, first: int, verdicts: bytes) -> None:
        """Remember where zeros are; what they mean is judged when the whole fork was read."""
        written = len(verdicts.rstrip(_ZERO))
        if written:
            self.tally.last_written = first + written - 1
        self.tally.zero_runs += [
            (first + run.start(), run.end() - run.start()) for run in _ZEROS.finditer(verdicts)
        ]

    def _verdicts(self, blocks: memoryview, first: int) -> bytes:
        file = self.file
        cipher = self.task.protection.cipher
        if self.segment is not None:
            return self.segment.judge(blocks, first)
        if file.file_class is FileClass.RELATION and cipher is not None:
            return cipher.audit_pages(
                blocks, file.identity, file.first_block + first, file.place.control.data_checksums
            )
        return _core.audit_random(blocks)

    def _bad_block(self, block: int, verdict: int, stored: memoryview) -> None:
        if self.segment is not None and verdict == _core.AUDIT_NOISE:
            self.segment.noise(block, bytes(stored[:16]))
            return
        again = self.source.read_again(block, verdict, self._verdicts, lambda found: found in _GOOD)
        if again is None:
            return  # Truncated, dropped or renamed meanwhile.
        if again == _core.AUDIT_ZERO:
            self.tally.zero += 1
        elif again == _core.AUDIT_VERIFIED:
            if self.file.file_class is FileClass.EPHEMERAL:
                self.tally.random += 1
            else:
                self.tally.verified += 1
        elif self._is_torn(again, bytes(stored)):
            self.tally.torn += 1
        else:
            kind = _KINDS[again]
            note = ""
            if kind is FindingKind.FOREIGN and not self.tally.continues(kind, block):
                note = self.task.explain(self.file, block, bytes(stored))
            self.tally.add_issue(kind, block, note)

    def _is_torn(self, verdict: int, stored: bytes) -> bool:
        """Tell whether a block is a mixture of two of its own states that PostgreSQL repairs.

        XTS keeps 16-byte pieces apart, so the header of such a page decrypts and its checksum
        does not fit; a piece of the state before its first write is zeros. WAL replay restores
        pages, and the server resets free space maps, which it does not log.
        """
        if self.file.file_class is not FileClass.RELATION:
            return False
        if verdict == _core.AUDIT_BAD_CHECKSUM:
            return self.file.place.replay_pending or self.file.identity[4] == Fork.FSM
        if verdict in (_core.AUDIT_NOISE, _core.AUDIT_NOT_RANDOM):
            never_written = stored[0] == 0 or stored[-1] == 0
            written = stored.strip(b"\0")
            return (
                self.file.place.replay_pending
                and never_written
                and len(stored) - len(written) >= 16
                and looks_random(written) is not False
            )
        return False

    def _judge_tail(self, block: int, tail: bytes) -> None:
        """Judge what is shorter than a block at the end of a file."""
        if self.file.file_class is not FileClass.EPHEMERAL and self.source.may_change:
            return  # The server is extending the file.
        verdict = looks_random(tail)
        if verdict is None:
            self.tally.too_short += block == 0
        elif verdict:
            self.tally.random += 1
        elif not self.source.may_change or self._tail_stays_plain(block):
            self.tally.add_issue(FindingKind.PLAINTEXT, block)

    def _tail_stays_plain(self, block: int) -> bool:
        """Look at a short block again, as read_again does at whole ones."""

        def judge(content: bytes) -> bool:
            return looks_random(content) is False

        return self.source.tail_stays(block, judge)

    def _search(self, buffer: memoryview, margin: int, count: int, position: int) -> None:
        for needle in self.task.needles:
            # A hit must end in this chunk: what ended before it has been seen already.
            before = min(margin, len(needle) - 1)
            window = buffer[MARGIN - before : MARGIN + count]
            found = _core.find_bytes(window, needle, 0)
            while found >= 0 and len(self.tally.canaries) < _MAXIMUM_CANARIES:
                self.tally.canaries.append(position - before + found)
                found = _core.find_bytes(window, needle, found + 1)
