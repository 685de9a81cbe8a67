"""The journal of a conversion, because of which it can be interrupted at any moment.

A directory ``tde_convert`` in the data directory holds:

state.json       what is being done and to which files; replaced as a whole
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
  before it could sync, or its sync failed: after an error Linux takes pages for clean that never
  reached the disk, and a second sync succeeds. Therefore a run writes the samples that it
  finds into a record of its own, and syncs that, before it overwrites their blocks.
* A file that is noted as done was synced before. If the note itself is lost, the file's
  blocks are looked at again and found to be finished.
* Finished blocks are written once more, so that an earlier failure to sync them is repaired or
  reported.

Whoever may write to the volume could add records: of a file that is "done" and stays plain, or with
samples that make plain blocks look encrypted. So records have a code, with a key that only this
conversion has. A note or a last record whose code is wrong counts as torn.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import stat
import struct
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tde.errors import ConversionError
from tde.whole_writes import write_all

ROTATE_BYTES = 64 << 20

CODE_BYTES = 16
RECORD = struct.Struct(">4sII16s")  # Magic, number of extents, bytes of payload, code.
MAGIC = b"TDEB"
EXTENT = struct.Struct(">IIII")  # File, first block in it, number of blocks, digest.
DONE = struct.Struct(">I16s")  # File, code.
RECORD_NAME = re.compile(r"blocks-(\d{1,9})-\d+-\d+|done-(\d{1,9})")
_STATE_NAME = "state.json"


class RecordKey:
    """The key of the records of one conversion.

    Args:
        key: from the keystore.
        conversion: a name that no other conversion has, so that its records count for it alone.
    """

    def __init__(self, key: bytes, conversion: str) -> None:
        self._key = hmac.new(key, b"records\0" + conversion.encode(), hashlib.sha256).digest()

    def code(self, *parts: bytes) -> bytes:
        """Return the code of a record."""
        made = hmac.new(self._key, digestmod=hashlib.sha256)
        for part in parts:
            made.update(part)
        return made.digest()[:CODE_BYTES]

    def fits(self, code: bytes, *parts: bytes) -> bool:
        """Tell whether a code is that of a record."""
        return hmac.compare_digest(self.code(*parts), code)


@dataclass(frozen=True, slots=True)
class Extent:
    """Consecutive blocks of one file; ``first`` counts within that file, not its fork."""

    file: int
    first: int
    blocks: int


class BlockJournal:
    """The records of one worker; files whose blocks are all done are removed on the way.

    Attributes:
        directory: where the records are.
    """

    def __init__(
        self, directory: Path, run: int, worker: int, done: DoneFiles, key: RecordKey
    ) -> None:
        self.directory = directory
        self._key = key
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
        head = b"".join(EXTENT.pack(e.file, e.first, e.blocks, crc) for e, crc, _ in extents)
        payload = b"".join([head, *(samples for _, _, samples in extents)])
        record = RECORD.pack(MAGIC, len(extents), len(payload), bytes(CODE_BYTES))
        code = self._key.code(record, payload)
        record = record[:-CODE_BYTES] + code + payload
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

    def __init__(self, directory: Path, run: int, key: RecordKey) -> None:
        self._descriptor = create_file(directory / f"done-{run}")
        self._key = key
        self._lock = threading.Lock()
        self._files: set[int] = set()
        self._durable: frozenset[int] = frozenset()

    def add(self, file: int) -> None:
        """Note a file that was synced. The note need not be durable: see the invariant."""
        code = self._key.code(file.to_bytes(4, "big"))
        with self._lock:
            write_all(self._descriptor, DONE.pack(file, code))
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


def require_own_directory(directory: Path) -> None:
    """Check that the journal, if there is one, is a directory and no link to another one.

    Raises:
        ConversionError: it is something else; files would be written and removed elsewhere.
    """
    with suppress(FileNotFoundError):
        if not stat.S_ISDIR(directory.lstat().st_mode):
            raise ConversionError(
                f"{directory} is not a directory",
                remedy="tde makes no link there. Find out who did, and remove it.",
            )


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


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_journal(directory: Path) -> None:
    """Remove the journal; state.json goes last because it explains the rest."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        descriptor = os.open(directory, flags)
    except FileNotFoundError:
        return
    # Only what a conversion writes, and in the directory that was opened: whoever may write to the
    # volume could put a link to another one in its place.
    try:
        with os.scandir(descriptor) as found:
            names = [entry.name for entry in found]
        for name in names:
            if RECORD_NAME.fullmatch(name) or name.startswith(f".{_STATE_NAME}."):
                os.unlink(name, dir_fd=descriptor)
        os.fsync(descriptor)
        with suppress(FileNotFoundError):
            os.unlink(_STATE_NAME, dir_fd=descriptor)
    finally:
        os.close(descriptor)
    directory.rmdir()
    sync_directory(directory.parent)
