"""Converting the blocks of a cluster with several threads.

Each worker takes a batch, reads it, converts it in its buffer, journals what is needed to finish
it (see :mod:`.journal`) and overwrites it. Whoever completes a file syncs it and notes it
as done.
"""

from __future__ import annotations

import mmap
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tde.convert.blocks import (
    Direction,
    convert,
    converted_before,
    digest,
    encrypted_digest,
    finish,
    invalid_pages,
    take_samples,
)
from tde.convert.extents import BATCH_BLOCKS, Batch
from tde.convert.journal import BlockJournal, DoneFiles, Extent, JournaledExtent
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
    direction: Direction,
    os_user: OsUser | None,
    *,
    jobs: int,
    look_for_lost_records: bool,
    listener: ProgressListener | None,
) -> WorkDone:
    """Convert all batches and return when everything is on disk.

    Args:
        journal: the directory for the records.
        run: number of this run, for the names of the records.
        look_for_lost_records: stop at a block that is converted although no record says so.

    Raises:
        ConversionError: the first problem of any worker. The cluster can be continued with.
    """
    outcome = WorkDone()
    stop = threading.Event()
    with continuable(journal), files_as(os_user):
        done = DoneFiles(journal, run)
    try:
        workers = [
            _Worker(
                source,
                BlockJournal(journal, run, number, done),
                done,
                direction,
                outcome,
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
        look_for_lost_records: bool,
    ) -> None:
        self._source = source
        self._journal = journal
        self._done = done
        self._direction = direction
        self._outcome = outcome
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
                    with ExitStack() as stack:
                        self._do(batch, buffer, stack)
            except BaseException:
                stop.set()
                raise
            finally:
                self._journal.close()

    def _do(self, batch: Batch, buffer: memoryview, stack: ExitStack) -> None:
        files: dict[int, tuple[Target, int]] = {}
        extents = [*batch.new, *(journaled.extent for journaled in batch.touched)]
        for extent in extents:
            if extent.file not in files:
                target = self._source.target(extent.file)
                with continuable(target.path):
                    descriptor = target.open()
                stack.callback(os.close, descriptor)
                files[extent.file] = (target, descriptor)
        views = list(_parts(buffer, extents))
        for extent, view in zip(extents, views, strict=True):
            target, descriptor = files[extent.file]
            with continuable(target.path):
                read_at(descriptor, view, extent.first * PAGE_SIZE, target.path)
        writes = self._convert_new(batch.new, views, files)
        for journaled, view in zip(batch.touched, views[len(batch.new) :], strict=True):
            self._finish(journaled, view, files[journaled.extent.file][0])
            writes.append((journaled.extent, view))
        for extent, view in writes:
            target, descriptor = files[extent.file]
            with continuable(target.path):
                write_at(descriptor, view, extent.first * PAGE_SIZE)
            self._outcome.add_written(len(view))
        for extent in extents:
            if self._source.complete(extent):
                target, descriptor = files[extent.file]
                with continuable(target.path):
                    os.fdatasync(descriptor)
                    self._done.add(extent.file)

    def _convert_new(
        self,
        extents: Sequence[Extent],
        views: Sequence[memoryview],
        files: dict[int, tuple[Target, int]],
    ) -> list[tuple[Extent, memoryview]]:
        """Convert and journal extents; return what is to be written, which leaves out zeros."""
        records: list[tuple[Extent, int, bytes]] = []
        writes: list[tuple[Extent, memoryview]] = []
        for extent, view in zip(extents, views, strict=False):
            crc, samples = self._convert(extent, view, files[extent.file][0])
            if samples.count(0) != len(samples):
                records.append((extent, crc, samples))
                writes.append((extent, view))
        if records:
            with continuable(self._journal.directory):
                self._journal.append(records)
        return writes

    def _convert(self, extent: Extent, view: memoryview, target: Target) -> tuple[int, bytes]:
        """Convert an extent in memory; return the digest and samples of its encrypted form."""
        identity = target.identity.identity
        place = (target.cipher, identity, target.identity.first_block + extent.first)
        encrypting = self._direction is Direction.ENCRYPT
        if encrypting:
            self._check_pages(extent, view, target)
            convert(view, *place, self._direction)
        result = digest(view), take_samples(view)
        if not encrypting:
            convert(view, *place, self._direction)
            self._check_pages(extent, view, target)
        return result

    def _check_pages(self, extent: Extent, plain: memoryview, target: Target) -> None:
        """Count blocks that are no pages.

        Raises:
            ConversionError: a block was converted before, and converting it again would spoil it.
        """
        if self._look_for_lost_records:
            identity, first = target.identity.identity, target.identity.first_block + extent.first
            again = converted_before(plain, target.cipher, identity, first, self._direction)
            if again:
                raise _lost_records(target.path, extent.first + again[0], self._journal.directory)
        if isinstance(target.identity.identity, RelationIdentity):
            found = invalid_pages(plain)
            if found:
                self._outcome.add_invalid(target.path, [extent.first + n for n in found])

    def _finish(self, journaled: JournaledExtent, view: memoryview, target: Target) -> None:
        """Finish an extent of an earlier run in memory.

        Raises:
            ConversionError: it holds neither the old nor the new form, nor a mixture.
        """
        extent = journaled.extent
        identity = target.identity.identity
        place = (target.cipher, identity, target.identity.first_block + extent.first)
        samples = journaled.read_samples()
        finish(view, samples, *place, self._direction)
        if encrypted_digest(view, samples, *place, self._direction) != journaled.digest:
            raise ConversionError(
                f"blocks {extent.first} to {extent.first + extent.blocks - 1} of {target.path} "
                "are not what an interrupted conversion leaves",
                remedy="Somebody has changed the file meanwhile, or the disk has lost data. "
                "Restore the cluster from a backup.",
            )


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
