"""Converting the blocks of a cluster with several threads.

Each worker takes a batch, reads it, converts it in its buffer, journals what is needed to finish
it (see :mod:`.journal`) and overwrites it. Whoever completes a file syncs it and notes it
as done.
"""

from __future__ import annotations

import mmap
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tde import _core
from tde.convert.blocks import (
    BlockCipher,
    CipherChange,
    Direction,
    convert,
    converted_before,
    digest,
    encrypted_digest,
    finish,
    finish_with_checksums,
    invalid_pages,
    take_samples,
)
from tde.convert.earlier_runs import JournaledExtent
from tde.convert.extents import BATCH_BLOCKS, Batch
from tde.convert.journal import BlockJournal, DoneFiles, Extent, RecordKey
from tde.convert.source import BatchSource, Target
from tde.convert.transfers import read_at, write_at
from tde.errors import ConversionError
from tde.page.codec import PAGE_SIZE
from tde.page.identity import RelationIdentity
from tde.postgres.server.file_user import files_as
from tde.postgres.server.os_user import OsUser

#: Called now and then with the bytes that are done and the bytes in all.
ProgressListener = Callable[[int, int], None]

_MOST_NAMED_PAGES = 20
_POLL = 0.1  # Seconds.


@dataclass
class WorkDone:
    """What the workers did and found.

    Attributes:
        written: bytes that were overwritten.
        invalid_pages: blocks that are not valid pages in their plain form.
        examples: the first of them, as text.
    """

    written: int = 0
    invalid_pages: int = 0
    examples: list[str] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def add_written(self, size: int) -> None:
        """Count bytes."""
        with self._lock:
            self.written += size

    def add_invalid(self, path: Path, blocks: Sequence[int]) -> None:
        """Count invalid pages and keep some of their places."""
        with self._lock:
            self.invalid_pages += len(blocks)
            room = _MOST_NAMED_PAGES - len(self.examples)
            self.examples += [f"block {block} of {path}" for block in blocks[: max(room, 0)]]


def run_workers(
    source: BatchSource,
    journal: Path,
    run: int,
    key: RecordKey,
    direction: Direction,
    os_user: OsUser | None,
    *,
    jobs: int,
    turn_on_checksums: bool,
    look_for_lost_records: bool,
    listener: ProgressListener | None,
) -> WorkDone:
    """Convert all batches and return when everything is on disk.

    Args:
        journal: the directory for the records.
        run: number of this run, for the names of the records.
        key: authenticates the records.
        turn_on_checksums: give every page of a relation its data checksum before it is encrypted.
        look_for_lost_records: stop at a block that is converted although no record says so.

    Raises:
        ConversionError: the first problem of any worker. The cluster can be continued with.
    """
    outcome = WorkDone()
    stop = threading.Event()
    with continuable(journal), files_as(os_user):
        done = DoneFiles(journal, run, key)
    try:
        workers = [
            _Worker(
                source,
                BlockJournal(journal, run, number, done, key),
                done,
                direction,
                outcome,
                turn_on_checksums=turn_on_checksums,
                look_for_lost_records=look_for_lost_records,
            )
            for number in range(jobs)
        ]
        with ThreadPoolExecutor(jobs, thread_name_prefix="tde-convert") as pool:
            try:
                futures = [pool.submit(worker.run, stop, os_user) for worker in workers]
                _wait(futures, source, listener)
            finally:
                # Also after Ctrl-C; the batches that are in work are completed first.
                stop.set()
    finally:
        done.close()
    return outcome


def _wait(
    futures: Sequence[Future[None]], source: BatchSource, listener: ProgressListener | None
) -> None:
    """Report progress until all workers have ended, or raise what one of them has raised."""
    pending = True
    while pending:
        finished, unfinished = wait(futures, timeout=_POLL, return_when=FIRST_EXCEPTION)
        pending = bool(unfinished)
        for future in finished:
            future.result()
        if listener is not None:
            listener(source.progress, source.total)


class _Worker:
    """One thread of a conversion."""

    def __init__(
        self,
        source: BatchSource,
        journal: BlockJournal,
        done: DoneFiles,
        direction: Direction,
        outcome: WorkDone,
        *,
        turn_on_checksums: bool,
        look_for_lost_records: bool,
    ) -> None:
        self._source = source
        self._journal = journal
        self._done = done
        self._direction = direction
        self._outcome = outcome
        self._turn_on_checksums = turn_on_checksums
        self._look_for_lost_records = look_for_lost_records

    def run(self, stop: threading.Event, os_user: OsUser | None) -> None:
        """Do batches until none is left or somebody says stop."""
        # A mapping is aligned to memory pages, so the kernel copies each sector from one page.
        buffer = memoryview(mmap.mmap(-1, BATCH_BLOCKS * PAGE_SIZE))
        with files_as(os_user):
            try:
                while not stop.is_set():
                    with continuable(self._journal.directory):
                        batch = self._source.next()
                    if batch is None:
                        return
                    self._do(batch, buffer)
            except BaseException:
                stop.set()
                raise
            finally:
                self._journal.close()

    def _do(self, batch: Batch, buffer: memoryview) -> None:
        """Convert a batch. It may be of thousands of files, which are opened one after the other.

        Each is opened twice, to read and to write: a process may not have all of them open.
        """
        extents = [*batch.new, *(journaled.extent for journaled in batch.touched)]
        views = dict(zip(extents, _parts(buffer, extents), strict=True))
        for target, part in self._by_file(extents):
            with self._opened(target) as descriptor:
                for extent in part:
                    read_at(descriptor, views[extent], extent.first * PAGE_SIZE, target.path)
        records: list[tuple[Extent, int, bytes]] = []
        writes = set(self._convert_new(batch.new, views, records))
        for journaled in batch.touched:
            samples = self._finish(journaled, views[journaled.extent])
            # The earlier run may have failed to sync its record, and nobody would say so now.
            records.append((journaled.extent, journaled.digest, samples))
            writes.add(journaled.extent)
        if records:
            with continuable(self._journal.directory):
                self._journal.append(records)
        for target, part in self._by_file(extents):
            with self._opened(target) as descriptor:
                for extent in part:
                    if extent in writes:
                        write_at(descriptor, views[extent], extent.first * PAGE_SIZE)
                        self._outcome.add_written(len(views[extent]))
                completed = [self._source.complete(extent) for extent in part]
                if any(completed):
                    os.fdatasync(descriptor)
                    self._done.add(part[0].file)

    def _by_file(self, extents: Sequence[Extent]) -> Iterator[tuple[Target, list[Extent]]]:
        by_file: dict[int, list[Extent]] = {}
        for extent in extents:
            by_file.setdefault(extent.file, []).append(extent)
        for file, part in by_file.items():
            yield self._source.target(file), part

    @contextmanager
    def _opened(self, target: Target) -> Iterator[int]:
        with continuable(target.path):
            descriptor = target.open()
            try:
                yield descriptor
            finally:
                os.close(descriptor)

    def _convert_new(
        self,
        extents: Sequence[Extent],
        views: Mapping[Extent, memoryview],
        records: list[tuple[Extent, int, bytes]],
    ) -> Iterator[Extent]:
        """Convert extents, add their records, and yield those to write, which leaves out zeros."""
        for extent in extents:
            target, view = self._source.target(extent.file), views[extent]
            if target.cipher is None:
                # Two bytes of a page change, which no power cut can tear, and a repetition writes
                # the same: this needs no journal.
                self._prepare_pages(extent, view, target)
                yield extent
                continue
            crc, samples = self._convert(extent, view, target, target.cipher)
            if samples.count(0) != len(samples):
                records.append((extent, crc, samples))
                yield extent

    def _convert(
        self, extent: Extent, view: memoryview, target: Target, cipher: BlockCipher
    ) -> tuple[int, bytes]:
        """Convert an extent in memory; return the digest and samples of its encrypted form."""
        where = (target.identity.identity, target.identity.first_block + extent.first)
        if isinstance(cipher, CipherChange):
            convert(view, cipher.old, *where, Direction.DECRYPT)
            self._require_records(extent, view, target, cipher)
            self._prepare_pages(extent, view, target)
            convert(view, cipher.new, *where, Direction.ENCRYPT)
            return digest(view), take_samples(view)
        place = (cipher, *where)
        encrypting = self._direction is Direction.ENCRYPT
        if encrypting:
            self._require_records(extent, view, target, cipher)
            self._prepare_pages(extent, view, target)
            convert(view, *place, self._direction)
        result = digest(view), take_samples(view)
        if not encrypting:
            convert(view, *place, self._direction)
            self._require_records(extent, view, target, cipher)
            self._prepare_pages(extent, view, target)
        return result

    def _require_records(
        self, extent: Extent, plain: memoryview, target: Target, cipher: BlockCipher
    ) -> None:
        """Check that no block was converted before; converting it again would spoil it.

        Raises:
            ConversionError: a block was, but the journal does not say so.
        """
        if self._look_for_lost_records:
            identity, first = target.identity.identity, target.identity.first_block + extent.first
            again = converted_before(plain, cipher, identity, first, self._direction)
            if again:
                raise _lost_records(target.path, extent.first + again[0], self._journal.directory)

    def _prepare_pages(self, extent: Extent, plain: memoryview, target: Target) -> None:
        """Set checksums where they are wanted, and count blocks of relations that are no pages."""
        if not isinstance(target.identity.identity, RelationIdentity):
            return
        found = invalid_pages(plain)
        if self._turn_on_checksums:
            first = target.identity.first_block + extent.first
            refused = _core.set_checksums(plain, first)
            if any(refused):
                found = sorted({*found, *(n for n, no_page in enumerate(refused) if no_page)})
        if found:
            self._outcome.add_invalid(target.path, [extent.first + n for n in found])

    def _finish(self, journaled: JournaledExtent, view: memoryview) -> bytes:
        """Finish an extent of an earlier run in memory; return the samples of its record.

        Raises:
            ConversionError: it holds neither the old nor the new form, nor a mixture.
        """
        extent = journaled.extent
        target = self._source.target(extent.file)
        identity = target.identity.identity
        assert target.cipher is not None  # Files that stay plain are not journaled.
        place = (target.cipher, identity, target.identity.first_block + extent.first)
        with continuable(self._journal.directory):
            samples = journaled.read_samples()
        if self._turn_on_checksums and isinstance(identity, RelationIdentity):
            assert not isinstance(target.cipher, CipherChange)  # A rekey turns nothing on.
            finish_with_checksums(view, samples, target.cipher, *place[1:])
        else:
            finish(view, samples, *place, self._direction)
        if encrypted_digest(view, samples, *place, self._direction) != journaled.digest:
            raise ConversionError(
                f"blocks {extent.first} to {extent.first + extent.blocks - 1} of {target.path} "
                "are not what an interrupted conversion leaves",
                remedy="Somebody has changed the file meanwhile, or the disk has lost data. "
                "Restore the cluster from a backup.",
            )
        return samples


def _lost_records(path: Path, block: int, journal: Path) -> ConversionError:
    return ConversionError(
        f"block {block} of {path} is converted already, but the journal {journal} does not say so",
        remedy="Files of the journal were removed or cut. Restore them, or the cluster from a "
        "backup. If you know that the journal is whole and that this block was wrong before the "
        "conversion: --allow-invalid-pages converts it like all others.",
    )


def _parts(buffer: memoryview, extents: Sequence[Extent]) -> Iterator[memoryview]:
    position = 0
    for extent in extents:
        size = extent.blocks * PAGE_SIZE
        yield buffer[position : position + size]
        position += size


@contextmanager
def continuable(path: Path) -> Iterator[None]:
    """Name the file in errors of the operating system, and say that nothing is lost.

    Raises:
        ConversionError: the operating system reported an error.
    """
    try:
        yield
    except OSError as error:
        raise ConversionError(
            f"the conversion stopped at {error.filename or path}: {error.strerror}",
            remedy="Nothing is lost. Remove the cause and repeat the command, which continues.",
        ) from error
