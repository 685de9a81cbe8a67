"""Handing out batches to workers, and knowing when a file is complete."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from tde.convert.blocks import BlockCipher, CipherName
from tde.convert.earlier_runs import EarlierRuns, JournaledExtent
from tde.convert.extents import BATCH_BLOCKS, Batch, cut, data_ranges, without
from tde.convert.journal import Extent
from tde.convert.plan import PlannedFile
from tde.errors import ConversionError
from tde.page.codec import PAGE_SIZE
from tde.page.identity import FileIdentity


@dataclass(frozen=True, slots=True)
class Target:
    """A file that is being converted.

    Attributes:
        path: where it is.
        identity: what its blocks are encrypted for.
        cipher: with the key for it, or both keys; None for a file that stays plain and gets
            checksums only.
    """

    path: Path
    size: int
    identity: FileIdentity
    cipher: BlockCipher | None

    def open(self) -> int:
        """Open the file for reading and writing.

        Raises:
            ConversionError: it has another size than at the beginning of the conversion.
            OSError: it cannot be opened.
        """
        descriptor = os.open(self.path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        size = os.fstat(descriptor).st_size
        if size != self.size:
            os.close(descriptor)
            raise ConversionError(
                f"{self.path} has {size} bytes, but had {self.size} when the conversion began",
                remedy="Somebody has changed the cluster meanwhile. Restore this file as it was, "
                "or the whole cluster from a backup.",
            )
        return descriptor


class BatchSource:
    """All batches of a conversion; workers share one.

    Args:
        files: to convert.
        plain_files: that stay plain and get checksums; they are numbered behind the others.
        ciphers: by tablespace OID, and None for the first key of WAL, ids for later ones.
        earlier: what earlier runs have journaled.
        wal_keys: of segments that do not have the first key of WAL, by their path.
    """

    def __init__(
        self,
        data_directory: Path,
        files: Sequence[PlannedFile],
        plain_files: Sequence[PlannedFile],
        ciphers: Mapping[CipherName, BlockCipher],
        earlier: EarlierRuns,
        wal_keys: Mapping[str, UUID],
    ) -> None:
        self._root = data_directory
        self._files = (*files, *plain_files)
        self._converted = len(files)
        self._ciphers = ciphers
        self._earlier = earlier
        self._wal_keys = wal_keys
        self._lock = threading.Lock()
        self._batches = self._make_batches()
        self._remaining: dict[int, int] = {}  # Blocks of the files that are in work.
        self._targets: dict[int, Target] = {}
        self.total = sum(file.size for file in self._files)
        self.progress = sum(self._files[number].size for number in earlier.done)

    def next(self) -> Batch | None:
        """Return a batch that nobody else has, or None when there is none left."""
        with self._lock:
            return next(self._batches, None)

    def target(self, file: int) -> Target:
        """Return the file that an extent of a batch belongs to, until it is complete."""
        return self._targets[file]

    def complete(self, extent: Extent) -> bool:
        """Note that an extent is written, and tell whether it was the last of its file."""
        with self._lock:
            self.progress += extent.blocks * PAGE_SIZE
            self._remaining[extent.file] -= extent.blocks
            if self._remaining[extent.file]:
                return False
            del self._remaining[extent.file]
            return True

    def _make_batches(self) -> Iterator[Batch]:
        """Yield batches; runs under the lock."""
        gathered: list[Extent] = []
        again: list[JournaledExtent] = []
        room = room_again = BATCH_BLOCKS
        for number, file in enumerate(self._files):
            if number in self._earlier.done or file.size == 0:
                continue
            touched = self._earlier.touched.get(number, [])
            for extent in self._begin(number, file, touched):
                if extent.blocks > room:
                    yield Batch(new=gathered)
                    gathered, room = [], BATCH_BLOCKS
                gathered.append(extent)
                room -= extent.blocks
            for journaled in touched:
                if journaled.extent.blocks > room_again:
                    yield Batch(touched=again)
                    again, room_again = [], BATCH_BLOCKS
                again.append(journaled)
                room_again -= journaled.extent.blocks
        if gathered or again:
            yield Batch(new=gathered)
            yield Batch(touched=again)

    def _begin(
        self, number: int, file: PlannedFile, touched: Sequence[JournaledExtent]
    ) -> list[Extent]:
        """Start on a file: note how much there is to do, and return its new extents."""
        identity = file.identity
        name = self._wal_keys.get(file.path, identity.tablespace)
        cipher = self._ciphers[name] if number < self._converted else None
        target = Target(self._root / file.path, file.size, identity, cipher)
        taken = sorted((t.extent.first, t.extent.first + t.extent.blocks) for t in touched)
        descriptor = target.open()
        try:
            ranges = data_ranges(descriptor, file.size // PAGE_SIZE)
            extents = list(cut(number, without(ranges, taken)))
        finally:
            os.close(descriptor)
        blocks = sum(e.blocks for e in extents) + sum(end - first for first, end in taken)
        self.progress += file.size - blocks * PAGE_SIZE  # Holes.
        if blocks:
            self._targets[number] = target
            self._remaining[number] = blocks
        return extents
