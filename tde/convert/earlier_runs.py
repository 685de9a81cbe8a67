"""What the journal says of runs that were interrupted (see :mod:`.journal`)."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tde.convert.blocks import SAMPLES_PER_BLOCK
from tde.convert.journal import (
    CODE_BYTES,
    DONE,
    EXTENT,
    MAGIC,
    RECORD,
    RECORD_NAME,
    Extent,
    RecordKey,
    sync_directory,
)
from tde.errors import ConversionError

_LARGEST_RECORD = 1 << 20


@dataclass(frozen=True, slots=True)
class JournaledExtent:
    """An extent that an earlier run may have overwritten.

    Attributes:
        digest: of its encrypted form.
        samples: file and offset of its samples in the journal.
        samples_digest: shows whether they are still those of the record.
    """

    extent: Extent
    digest: int
    samples: tuple[Path, int]
    samples_digest: bytes

    def read_samples(self) -> bytes:
        """Return the samples of the encrypted form.

        The file is opened for it: hundreds of interrupted runs leave more files than a process may
        have open.

        Raises:
            ConversionError: they have changed since they were found.
            OSError: they cannot be read.
        """
        path, offset = self.samples
        with open_record_file(path) as descriptor:
            samples = os.pread(descriptor, self.extent.blocks * SAMPLES_PER_BLOCK, offset)
        if _samples_digest(samples) != self.samples_digest:
            raise _damaged(path, offset)
        return samples


@dataclass
class EarlierRuns:
    """What the journal of earlier runs says.

    Attributes:
        run: number for the next run.
        done: files that need no look.
        touched: for other files, the extents that may have been overwritten.
    """

    run: int = 1
    done: set[int] = field(default_factory=set)
    touched: dict[int, list[JournaledExtent]] = field(default_factory=dict)


def read_earlier_runs(directory: Path, key: RecordKey) -> EarlierRuns:
    """Read and sync what earlier runs have written.

    Raises:
        ConversionError: the journal is damaged in a way that no interruption explains.
        OSError: it cannot be read or synced.
    """
    result = EarlierRuns()
    touched: dict[Extent, JournaledExtent] = {}
    names = sorted(p.name for p in directory.iterdir() if RECORD_NAME.fullmatch(p.name))
    for name in names:
        result.run = max(result.run, _run_of(name) + 1)
        if name.startswith("done-"):
            result.done |= _read_done(directory / name, key)
    for name in names:
        if name.startswith("blocks-"):
            with open_record_file(directory / name) as descriptor:
                os.fsync(descriptor)
                # Several runs that were interrupted at one place have written the same samples.
                touched.update(
                    (e.extent, e) for e in _read_blocks(descriptor, directory / name, key)
                )
    for extent, found in touched.items():
        if extent.file not in result.done:
            result.touched.setdefault(extent.file, []).append(found)
    sync_directory(directory)
    return result


def has_records(directory: Path) -> bool:
    """Tell whether there are records of any run, which there are only while pg_control is away."""
    return any(path.name.startswith(("blocks-", "done-")) for path in directory.glob("*"))


def _run_of(name: str) -> int:
    return int(name.split("-")[1])


@contextmanager
def open_record_file(path: Path) -> Iterator[int]:
    """Open a file of an earlier run for reading; yields the descriptor."""
    descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _read_done(path: Path, key: RecordKey) -> set[int]:
    with open_record_file(path) as descriptor:
        data = os.pread(descriptor, os.fstat(descriptor).st_size, 0)
    found = set()
    for position in range(0, len(data) - DONE.size + 1, DONE.size):
        file, code = DONE.unpack_from(data, position)
        if key.fits(code, file.to_bytes(4, "big")):
            found.add(file)
    return found


def _read_blocks(descriptor: int, path: Path, key: RecordKey) -> list[JournaledExtent]:
    """Return the extents of all whole records; a torn one may stand at the end only."""
    found: list[JournaledExtent] = []
    size = os.fstat(descriptor).st_size
    position = 0
    while position < size:
        head = os.pread(descriptor, RECORD.size, position)
        record = _parse_record(descriptor, path, head, position, key)
        if record is None:
            if _more_follows(descriptor, path, position, size, key):
                raise _damaged(path, position)
            break
        extents, length = record
        found += extents
        position += length
    return found


def _more_follows(descriptor: int, path: Path, position: int, size: int, key: RecordKey) -> bool:
    """Tell whether something stands behind a damaged record, which is then not a torn last one."""
    if size - position > _LARGEST_RECORD:
        return True
    rest = os.pread(descriptor, size - position, position)
    place = rest.find(MAGIC, 1)
    while place >= 0:
        head = rest[place : place + RECORD.size]
        if _parse_record(descriptor, path, head, position + place, key) is not None:
            return True
        place = rest.find(MAGIC, place + 1)
    return False


def _parse_record(
    descriptor: int, path: Path, head: bytes, position: int, key: RecordKey
) -> tuple[list[JournaledExtent], int] | None:
    if len(head) < RECORD.size:
        return None
    magic, count, length, code = RECORD.unpack(head)
    if magic != MAGIC or length > _LARGEST_RECORD or count * EXTENT.size > length:
        return None
    start = position + RECORD.size
    payload = os.pread(descriptor, length, start)
    uncoded = head[:-CODE_BYTES] + bytes(CODE_BYTES)
    if len(payload) != length or not key.fits(code, uncoded, payload):
        return None
    found = []
    samples = count * EXTENT.size
    for number in range(count):
        file, first, blocks, digest = EXTENT.unpack_from(payload, number * EXTENT.size)
        end = samples + blocks * SAMPLES_PER_BLOCK
        place, kept = (path, start + samples), _samples_digest(payload[samples:end])
        found.append(JournaledExtent(Extent(file, first, blocks), digest, place, kept))
        samples = end
    if samples != length:
        return None
    return found, RECORD.size + length


def _samples_digest(samples: bytes) -> bytes:
    return hashlib.sha256(samples).digest()[:CODE_BYTES]


def _damaged(path: Path, position: int) -> ConversionError:
    return ConversionError(
        f"{path} is damaged at byte {position}",
        remedy="The blocks that were being overwritten cannot be told apart. Restore "
        "this file or the whole cluster from a backup.",
    )
