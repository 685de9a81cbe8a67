"""The journal of a conversion, because of which it can be interrupted at any moment.

A directory ``tde_convert`` in the data directory holds:

state.json       what is being done and to which files; replaced as a whole, with a checksum
blocks-R-W-N     for each batch of blocks, their samples (see :mod:`.blocks`), written by worker W
                 of run R before the batch is overwritten; N counts the files of a worker
done-R           numbers of the files that are converted and on disk

The invariant: **a block is overwritten only after its samples are durable, and its samples are
forgotten only after the file is durable and is durably known to be done.** It follows that no
interruption, of the process or of the machine, loses a block:

* A block without samples was not overwritten: it is in its old form and is converted afresh.
* A record that is torn has never been synced, so its batch was not overwritten. Nothing is
  ever written behind a torn record, because each run begins new files.
* A block with samples may be in its old form, in its new form or torn. Each sector is told apart
  and finished. That may be interrupted and repeated as often as one likes: the samples stay
  the same, and every sector is in one of the two forms at any time.
* What a later run relies on must survive a power failure even if the earlier run was killed
  before it could sync: therefore a run syncs the records it finds before it uses them.
* A file that is noted as done was synced before. If the note itself is lost, the file's
  blocks are looked at again and found to be finished.
* Finished blocks are written once more, so that an earlier failure to sync them, after which
  Linux takes pages for clean that never reached the disk, is repaired or reported.
"""

from __future__ import annotations

import os
import struct
import threading
import zlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from tde.convert.blocks import SAMPLES_PER_BLOCK
from tde.errors import ConversionError

ROTATE_BYTES = 64 << 20

_RECORD = struct.Struct(">4sIII")  # Magic, number of extents, bytes of payload, CRC of payload.
_MAGIC = b"TDEB"
_EXTENT = struct.Struct(">IIII")  # File, first block in it, number of blocks, digest.
_DONE = struct.Struct(">II")  # File, CRC of it.
_LARGEST_RECORD = 1 << 20


@dataclass(frozen=True, slots=True)
class Extent:
    """Consecutive blocks of one file; ``first`` counts within that file, not its fork."""

    file: int
    first: int
    blocks: int


@dataclass(frozen=True, slots=True)
class JournaledExtent:
    """An extent that an earlier run may have overwritten.

    Attributes:
        digest: of its encrypted form.
        samples: descriptor and offset of its samples in the journal.
    """

    extent: Extent
    digest: int
    samples: tuple[int, int]

    def read_samples(self) -> bytes:
        """Return the samples of the encrypted form."""
        descriptor, offset = self.samples
        return os.pread(descriptor, self.extent.blocks * SAMPLES_PER_BLOCK, offset)


class BlockJournal:
    """The records of one worker; files whose blocks are all done are removed on the way.

    Attributes:
        directory: where the records are.
    """

    def __init__(self, directory: Path, run: int, worker: int, done: DoneFiles) -> None:
        self.directory = directory
        self._prefix = f"blocks-{run}-{worker}"
        self._done = done
        self._number = 0
        self._descriptor = -1
        self._bytes = 0
        self._current: set[int] = set()
        self._full: list[tuple[Path, set[int]]] = []
        self._path = Path()

    def append(self, extents: Sequence[tuple[Extent, int, bytes]]) -> None:
        """Write a record of extents with their digests and samples, and make it durable.

        Raises:
            OSError: it could not be written; the extents must not be overwritten then.
        """
        if self._descriptor < 0 or self._bytes > ROTATE_BYTES:
            self._begin_file()
        head = b"".join(_EXTENT.pack(e.file, e.first, e.blocks, crc) for e, crc, _ in extents)
        payload = b"".join([head, *(samples for _, _, samples in extents)])
        record = _RECORD.pack(_MAGIC, len(extents), len(payload), zlib.crc32(payload)) + payload
        write_all(self._descriptor, record)
        os.fdatasync(self._descriptor)
        self._bytes += len(record)
        self._current.update(extent.file for extent, _, _ in extents)

    def _begin_file(self) -> None:
        self.close()
        self._forget_done()
        self._path = self.directory / f"{self._prefix}-{self._number}"
        self._number += 1
        self._descriptor = create_file(self._path)
        self._bytes = 0

    def _forget_done(self) -> None:
        """Remove full files of which nothing is needed any more."""
        durable = self._done.sync()
        for path, files in list(self._full):
            if files <= durable:
                path.unlink()
                self._full.remove((path, files))

    def close(self) -> None:
        """Close the file that is being written."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
            self._full.append((self._path, self._current))
            self._current = set()


class DoneFiles:
    """The numbers of files that are converted and synced, for all workers of one run."""

    def __init__(self, directory: Path, run: int) -> None:
        self._descriptor = create_file(directory / f"done-{run}")
        self._lock = threading.Lock()
        self._files: set[int] = set()
        self._durable: frozenset[int] = frozenset()

    def add(self, file: int) -> None:
        """Note a file that was synced. The note need not be durable: see the invariant."""
        number = file.to_bytes(4, "big")
        with self._lock:
            write_all(self._descriptor, _DONE.pack(file, zlib.crc32(number)))
            self._files.add(file)

    def sync(self) -> frozenset[int]:
        """Make the notes durable and return them."""
        with self._lock:
            if len(self._durable) != len(self._files):
                os.fdatasync(self._descriptor)
                self._durable = frozenset(self._files)
            return self._durable

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)


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
    _open: list[int] = field(default_factory=list)

    def close(self) -> None:
        """Close the journal's files."""
        for descriptor in self._open:
            os.close(descriptor)
        self._open.clear()


def read_earlier_runs(directory: Path) -> EarlierRuns:
    """Read and sync what earlier runs have written.

    Raises:
        ConversionError: the journal is damaged in a way that no interruption explains.
        OSError: it cannot be read or synced.
    """
    result = EarlierRuns()
    try:
        for path in sorted(directory.iterdir()):
            kind, *numbers = path.name.split("-")
            if kind == "done" or kind == "blocks":
                result.run = max(result.run, int(numbers[0]) + 1)
            if kind == "done":
                result.done |= _read_done(path)
        for path in sorted(directory.glob("blocks-*")):
            descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
            result._open.append(descriptor)
            os.fsync(descriptor)
            for found in _read_blocks(descriptor, path):
                if found.extent.file not in result.done:
                    result.touched.setdefault(found.extent.file, []).append(found)
        sync_directory(directory)
    except BaseException:
        result.close()
        raise
    return result


def has_records(directory: Path) -> bool:
    """Tell whether there are records of any run, which there are only while pg_control is away."""
    return any(path.name.startswith(("blocks-", "done-")) for path in directory.glob("*"))


def _read_done(path: Path) -> set[int]:
    data = path.read_bytes()
    found = set()
    for position in range(0, len(data) - _DONE.size + 1, _DONE.size):
        file, crc = _DONE.unpack_from(data, position)
        if crc == zlib.crc32(file.to_bytes(4, "big")):
            found.add(file)
    return found


def _read_blocks(descriptor: int, path: Path) -> list[JournaledExtent]:
    """Return the extents of all whole records; a torn one may stand at the end only."""
    found: list[JournaledExtent] = []
    size = os.fstat(descriptor).st_size
    position = 0
    while position < size:
        head = os.pread(descriptor, _RECORD.size, position)
        record = _parse_record(descriptor, head, position)
        if record is None:
            if _more_follows(descriptor, position, size):
                raise ConversionError(
                    f"{path} is damaged at byte {position}",
                    remedy="The blocks that were being overwritten cannot be told apart. Restore "
                    "this file or the whole cluster from a backup.",
                )
            break
        extents, length = record
        found += extents
        position += length
    return found


def _more_follows(descriptor: int, position: int, size: int) -> bool:
    """Tell whether something stands behind a damaged record, which is then not a torn last one."""
    if size - position > _LARGEST_RECORD:
        return True
    rest = os.pread(descriptor, size - position, position)
    place = rest.find(_MAGIC, 1)
    while place >= 0:
        head = rest[place : place + _RECORD.size]
        if _parse_record(descriptor, head, position + place) is not None:
            return True
        place = rest.find(_MAGIC, place + 1)
    return False


def _parse_record(
    descriptor: int, head: bytes, position: int
) -> tuple[list[JournaledExtent], int] | None:
    if len(head) < _RECORD.size:
        return None
    magic, count, length, crc = _RECORD.unpack(head)
    if magic != _MAGIC or length > _LARGEST_RECORD or count * _EXTENT.size > length:
        return None
    start = position + _RECORD.size
    payload = os.pread(descriptor, length, start)
    if len(payload) != length or zlib.crc32(payload) != crc:
        return None
    found = []
    samples = count * _EXTENT.size
    for number in range(count):
        file, first, blocks, digest = _EXTENT.unpack_from(payload, number * _EXTENT.size)
        place = (descriptor, start + samples)
        found.append(JournaledExtent(Extent(file, first, blocks), digest, place))
        samples += blocks * SAMPLES_PER_BLOCK
    if samples != length:
        return None
    return found, _RECORD.size + length


def create_file(path: Path) -> int:
    """Make a new file for writing whose name is durable; return its descriptor."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(path, flags, 0o600)
    try:
        sync_directory(path.parent)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def write_all(descriptor: int, data: bytes) -> None:
    """Write everything; a disk that is nearly full takes a part before it refuses the rest."""
    remaining = memoryview(data)
    while remaining:
        remaining = remaining[os.write(descriptor, remaining) :]


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_journal(directory: Path) -> None:
    """Remove the journal; state.json goes last because it explains the rest."""
    if not directory.exists():
        return
    for path in directory.iterdir():
        if path.name != "state.json":
            path.unlink()
    sync_directory(directory)
    with suppress(FileNotFoundError):
        (directory / "state.json").unlink()
    directory.rmdir()
    sync_directory(directory.parent)
