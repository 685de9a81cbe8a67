"""Pages of zeros where rows may have been.

A block of zeros is stored as zeros and reads as a page that was never written, checksum or not. So
whoever writes to the disk removes rows without a key and without a trace. Two things give it away:
pages that are not zeros behind it in the same fork, and the visibility map, which is ciphertext.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from tde import _core
from tde.audit.inventory import AuditedFile, Content, Place
from tde.audit.keys import AuditKeys
from tde.audit.report import Finding, FindingKind
from tde.audit.tally import Tally
from tde.audit.unpacking import DamagedContent, unpacked
from tde.page.identity import Fork

_BLOCK = _core.BLOCK_SIZE
# visibilitymap.c of PostgreSQL: behind the page's header, two bits for each block of the table.
_PAGE_HEADER = 24
_HEAP_BLOCKS_PER_BYTE = 4
_HEAP_BLOCKS_PER_PAGE = (_BLOCK - _PAGE_HEADER) * _HEAP_BLOCKS_PER_BYTE
_ALL_VISIBLE = 1
# hash.h of PostgreSQL: what the page in front of a hash index begins with.
_HASH_MAGIC = (0x6440640).to_bytes(4, "little")

_ForkKey = tuple[Place, int, int, int]


@dataclass(frozen=True)
class _Run:
    """Neighbouring blocks of zeros in one file; ``block`` is counted in the file."""

    file: AuditedFile
    block: int
    blocks: int

    @property
    def fork_block(self) -> int:
        return self.file.first_block + self.block


@dataclass
class _MainFork:
    """The main fork of a relation, all its segment files together."""

    zeros: list[_Run] = field(default_factory=list)
    last_written: int = -1
    first_file: AuditedFile | None = None


class ZeroPages:
    """Collects blocks of zeros of all relations, and judges them when all files were read.

    Only main forks: a free space map is a tree whose upper pages are written first, and both maps
    are extended with zeros far behind what was written, by design.
    """

    def __init__(self, keys: AuditKeys) -> None:
        self._keys = keys
        self._forks: dict[_ForkKey, _MainFork] = {}
        self._maps: dict[_ForkKey, AuditedFile] = {}  # Of stored files, which are read once.

    def add(self, file: AuditedFile, tally: Tally) -> None:
        """Add what one stretch of a file gave."""
        if file.tablespace is not None and _is_map_in_reach(file):
            self._maps[_relation(file)] = file
        if file.tablespace is None or not _is_main_fork(file):
            return
        main = self._forks.setdefault(_relation(file), _MainFork())
        main.zeros += [_Run(file, block, blocks) for block, blocks in tally.zero_runs]
        if tally.last_written >= 0:
            main.last_written = max(main.last_written, file.first_block + tally.last_written)
        if file.first_block == 0:
            main.first_file = file

    def findings(self) -> Iterator[tuple[AuditedFile, Finding]]:
        """Yield a file and a finding for each run of zeros that should be looked at."""
        for relation, main in self._forks.items():
            if not main.zeros:
                continue
            visible = _VisibilityMap(main, self._maps.get(relation), self._keys)
            is_hash = self._is_hash_index(main)
            for run in _joined(main.zeros):
                for finding in self._judge(run, main, visible, is_hash=is_hash):
                    yield run.file, finding

    def _judge(
        self, run: _Run, main: _MainFork, visible: _VisibilityMap, *, is_hash: bool
    ) -> Iterator[Finding]:
        place = run.file.place
        blocks = range(run.block, run.block + run.blocks)
        if place.live:
            blocks_now = [block for block in blocks if _is_still_zero(run.file, block)]
        else:
            blocks_now = list(blocks)
        first = run.file.first_block
        lost = {block for block in blocks_now if visible.has(first + block)}
        inner = {b for b in blocks_now if first + b < main.last_written and not is_hash} - lost
        # Until the next checkpoint, or until replay has ended, such a page may be where it belongs.
        settled = not place.live and not place.replay_pending
        for part in _runs(lost):
            kind = FindingKind.LOST_PAGES if settled else FindingKind.ZERO_PAGES
            yield _finding(kind, run.file, part, _MARKED, settled=settled)
        for part in _runs(inner):
            yield _finding(FindingKind.ZERO_PAGES, run.file, part, _INNER, settled=settled)

    def _is_hash_index(self, main: _MainFork) -> bool:
        """Tell whether it is a hash index, which is extended by many pages of zeros at once."""
        file = main.first_file
        if file is None:
            return False
        page = _decrypted(file, 0, file.identity[4], self._keys)
        return page[_PAGE_HEADER : _PAGE_HEADER + 4] == _HASH_MAGIC


class _VisibilityMap:
    """The visibility map of a relation, read page by page when it is asked."""

    def __init__(self, main: _MainFork, stored: AuditedFile | None, keys: AuditKeys) -> None:
        self._keys = keys
        first = main.zeros[0].file
        name = first.path.name.partition(".")[0]
        beside = replace(first, path=first.path.with_name(f"{name}_vm"))
        self._file = stored if first.content is not None else beside
        self._number = -1
        self._page = b""

    def has(self, block: int) -> bool:
        """Tell whether a block is marked as a page whose rows all transactions see."""
        number, at = divmod(block, _HEAP_BLOCKS_PER_PAGE)
        if number != self._number:
            self._page = b""
            if self._file is not None:
                self._page = _decrypted(self._file, number, Fork.VM, self._keys)
            self._number = number
        if not self._page:
            return False
        byte = self._page[_PAGE_HEADER + at // _HEAP_BLOCKS_PER_BYTE]
        return bool(byte >> 2 * (at % _HEAP_BLOCKS_PER_BYTE) & _ALL_VISIBLE)


def _decrypted(file: AuditedFile, block: int, fork: int, keys: AuditKeys) -> bytes:
    """Return a page of a relation, or nothing when there is none that can be trusted."""
    assert file.tablespace is not None
    cipher = keys.tablespace(file.tablespace, file.place.home).cipher
    stored = _stored(file, block)
    if cipher is None or stored is None:
        return b""
    identity = (*file.identity[:4], int(fork))
    checksums = file.place.control.data_checksums
    if cipher.audit_pages(stored, identity, block, checksums)[0] != _core.AUDIT_VERIFIED:
        return b""
    return cipher.decrypt_blocks(stored, None, identity, block, 1)


def _stored(file: AuditedFile, block: int) -> bytes | None:
    """Return a block as it is stored; ``None`` when it is not there any more, or out of reach."""
    if file.content is not None:
        return _unpacked_block(file, file.content, block)
    try:
        descriptor = os.open(file.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        content = os.pread(descriptor, _BLOCK, block * _BLOCK)
    finally:
        os.close(descriptor)
    return content if len(content) == _BLOCK else None


def _unpacked_block(file: AuditedFile, content: Content, block: int) -> bytes | None:
    if not content.addressable:
        return None
    try:
        with unpacked(file.path, content.compression, content.part) as stream:
            stream.skip(block * _BLOCK)
            page = b""
            while len(page) < _BLOCK and (piece := stream.read(_BLOCK - len(page))):
                page += piece
    except (DamagedContent, OSError):
        return None  # What is wrong has been said when the file was judged.
    return page if len(page) == _BLOCK else None


def _is_still_zero(file: AuditedFile, block: int) -> bool:
    stored = _stored(file, block)
    return stored is not None and not any(stored)


def _joined(runs: list[_Run]) -> Iterator[_Run]:
    """Yield the runs in order, neighbours of two stretches of one file as one."""
    last: _Run | None = None
    for run in sorted(runs, key=lambda run: run.fork_block):
        if last is not None and last.file == run.file and last.block + last.blocks == run.block:
            last = _Run(last.file, last.block, last.blocks + run.blocks)
            continue
        if last is not None:
            yield last
        last = run
    if last is not None:
        yield last


def _runs(blocks: set[int]) -> Iterator[tuple[int, int]]:
    """Yield (first, number) for neighbouring blocks."""
    start = count = 0
    for block in sorted(blocks):
        if count and block == start + count:
            count += 1
            continue
        if count:
            yield start, count
        start, count = block, 1
    if count:
        yield start, count


_MARKED = "the visibility map says that rows were there that everybody sees"
_INNER = "pages behind it in the relation are not"
_REMEDIES = {
    FindingKind.LOST_PAGES: "Rows are gone: a disk or somebody who may write to it has cleared "
    "them, or a crash of a server with fsync off. Restore the file from a backup and replay WAL.",
    FindingKind.ZERO_PAGES: "Several sessions that insert at once, and crashes, leave such pages. "
    "If neither explains it, compare the relation with a standby or a backup: whoever writes to "
    "the disk removes rows in this way.",
}
_NOT_SETTLED = (
    "New pages may be in the server's memory only, or come back with WAL replay: repeat the audit "
    "after CHECKPOINT, or when the server is stopped. "
)


def _finding(
    kind: FindingKind, file: AuditedFile, part: tuple[int, int], why: str, *, settled: bool
) -> Finding:
    first, count = part
    where = f"block {first} is" if count == 1 else f"blocks {first} to {first + count - 1} are all"
    remedy = _REMEDIES[kind]
    return Finding(
        kind,
        file.path,
        f"{file.label}: {where} zeros, but {why}",
        remedy if settled else f"{_NOT_SETTLED}{remedy}",
        member=file.member,
        block=first,
        blocks=count,
    )


def _relation(file: AuditedFile) -> _ForkKey:
    assert file.tablespace is not None
    _, database, relfilenumber, _, _ = file.identity
    return file.place, file.tablespace, database, relfilenumber


def _is_map_in_reach(file: AuditedFile) -> bool:
    is_map = file.identity[0] == _core.CLASS_RELATION and file.identity[4] == Fork.VM
    return is_map and file.content is not None and file.content.addressable


def _is_main_fork(file: AuditedFile) -> bool:
    return file.identity[0] == _core.CLASS_RELATION and file.identity[4] == Fork.MAIN
