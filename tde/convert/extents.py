"""Cutting files into extents and extents into batches."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from tde.convert.earlier_runs import JournaledExtent
from tde.convert.journal import Extent
from tde.page.codec import PAGE_SIZE

# Large enough that the cost of a call does not count, small enough for the checksum to name
# the place of a problem.
EXTENT_BLOCKS = (2 << 20) // PAGE_SIZE
# Every batch waits for one sync of the journal, which should take a small part of the time
# that the batch itself takes.
BATCH_BLOCKS = (16 << 20) // PAGE_SIZE

Range = tuple[int, int]  # First block, and the one behind the last.


@dataclass(frozen=True, slots=True)
class Batch:
    """What a worker does in one step: new extents, or extents of an earlier run to finish."""

    new: Sequence[Extent] = ()
    touched: Sequence[JournaledExtent] = ()


def data_ranges(descriptor: int, blocks: int) -> Iterator[Range]:
    """Yield the ranges of a file that are no holes: zeros stay zeros without being written."""
    position = 0
    while position < blocks:
        try:
            start = os.lseek(descriptor, position * PAGE_SIZE, os.SEEK_DATA)
            end = os.lseek(descriptor, start, os.SEEK_HOLE)
        except OSError as error:
            if error.errno == errno.ENXIO:  # Only a hole is left.
                return
            if error.errno != errno.EINVAL:
                raise
            yield position, blocks  # The file system knows no holes.
            return
        first = max(start // PAGE_SIZE, position)
        position = min(-(-end // PAGE_SIZE), blocks)
        yield first, position


def without(ranges: Iterable[Range], taken: Sequence[Range]) -> Iterator[Range]:
    """Yield what is left of ``ranges`` outside of ``taken``, which is sorted."""
    for first, end in ranges:
        for taken_first, taken_end in taken:
            if taken_end <= first:
                continue
            if taken_first >= end:
                break
            if taken_first > first:
                yield first, taken_first
            first = taken_end
        if first < end:
            yield first, end


def cut(file: int, ranges: Iterable[Range]) -> Iterator[Extent]:
    """Cut ranges of a file into extents."""
    for first, end in ranges:
        for start in range(first, end, EXTENT_BLOCKS):
            yield Extent(file, start, min(EXTENT_BLOCKS, end - start))
