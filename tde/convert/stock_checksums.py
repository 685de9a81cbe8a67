"""Undoing what PostgreSQL's own pg_checksums does to an encrypted cluster.

Without the keys, ``pg_checksums --enable`` takes ciphertext for pages and overwrites bytes 8 and 9
of every block. What stood there is found by trial: of 65,536 values one makes the block a page
(its header, an LSN that the WAL has reached, and the checksum if it had one). All blocks are
looked at before the first is changed. A block is repaired by writing two bytes, which no power cut
can tear, and a block that is repaired is found right by the next run: so it may be interrupted.
"""

from __future__ import annotations

import os
import threading
import time
from array import array
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tde import _core
from tde.algorithms import Algorithm
from tde.convert.checks import require_stopped_cleanly
from tde.convert.plan import PlannedFile, make_plan
from tde.convert.transfers import read_at, write_at
from tde.errors import ClusterKeystoreError, ConversionError, DamagedPagesError, ProgramError
from tde.page.codec import PAGE_SIZE
from tde.page.identity import RelationIdentity
from tde.page.libcrypto import make_cipher
from tde.postgres.cluster.cluster import Cluster
from tde.postgres.cluster.keymap import map_key
from tde.postgres.cluster.keys import require_open
from tde.postgres.cluster.landed_keys import known_map
from tde.postgres.cluster.links import tablespace_oids
from tde.postgres.cluster.lock import cluster_lock
from tde.postgres.cluster.marker import require_matching_keystore
from tde.postgres.facts import BUILT_IN_TABLESPACES, CHECKSUM_BYTES
from tde.postgres.server.control import ControlData, read_major_version
from tde.postgres.server.file_user import files_as
from tde.postgres.server.program import run_program

if TYPE_CHECKING:
    from tde.keystore import Keystore

_BATCH_PAGES = 256
_MOST_NAMED = 3
_RESULT = 3  # Bytes for each block: verdict and two bytes.


@dataclass
class RepairSummary:
    """What was found and done.

    Attributes:
        pages: blocks that are not zeros.
        repaired: blocks in which two bytes were put back.
        damaged: blocks that are no pages for another reason; they were left as they are.
        damaged_examples: where the first of them are.
        checksums_off: whether data checksums were turned off, because pages have none.
    """

    data_directory: Path
    files: int = 0
    pages: int = 0
    repaired: int = 0
    damaged: int = 0
    damaged_examples: list[str] = field(default_factory=list)
    checksums_off: bool = False
    seconds: float = 0.0

    def as_json(self) -> dict[str, Any]:
        """Return the fields as values that the json module can write."""
        return {**vars(self), "data_directory": str(self.data_directory)}


def repair_stock_checksums(cluster: Cluster, keystore: Keystore, *, jobs: int = 2) -> RepairSummary:
    """Put back what PostgreSQL's own pg_checksums has overwritten; repeat it if interrupted.

    Pages are afterwards bit by bit as before. If checksums were off then, so that pages have none
    that fit, they are turned off again in pg_control.

    Raises:
        ConversionError: a server runs, or the last one did not shut down cleanly.
        ClusterKeystoreError: the cluster is not encrypted, or not with this keystore.
        DamagedPagesError: for some block several values are possible; nothing was changed.
        ClusterBusyError: another command works on the cluster.
    """
    begun = time.monotonic()
    directory = cluster.data_directory
    read_major_version(directory)
    require_open(keystore)
    if cluster.marker is None:
        raise ClusterKeystoreError(
            f"the cluster {directory} is not encrypted",
            remedy="There is nothing to repair. If tde.json is missing, restore it from a backup.",
        )
    require_matching_keystore(directory, cluster.marker, keystore.uuid)
    with cluster_lock(directory, required=True):
        if cluster.pid is not None:
            raise ConversionError(
                f"the server in {directory} is running (pid {cluster.pid})",
                remedy=f"Stop it: tde pg stop -D {directory}",
            )
        control = require_stopped_cleanly(cluster)
        summary = RepairSummary(directory)
        with _open_keys(keystore, directory) as keys:
            repair = _Repair(cluster, control, keys, summary, jobs)
            found = repair.search()
            repair.write(found)
            if summary.repaired or control.data_checksums:
                repair.turn_off_what_does_not_fit(keystore)
    summary.seconds = time.monotonic() - begun
    return summary


@dataclass(frozen=True)
class _Key:
    algorithm: Algorithm
    key: bytearray


@contextmanager
def _open_keys(keystore: Keystore, directory: Path) -> Iterator[dict[int, _Key]]:
    """Yield the key of each encrypted tablespace by its OID."""
    from tde.keystore.crypto.secret import wipe

    keys: dict[int, _Key] = {}
    keymap = known_map(directory, keystore.path, map_key(keystore))
    try:
        for oid in {*BUILT_IN_TABLESPACES, *tablespace_oids(directory)}:
            found = keymap.key_of(keystore, oid)
            if found is not None:
                keys[oid] = _Key(*found)
        yield keys
    finally:
        for entry in keys.values():
            wipe(entry.key)


@dataclass
class Changes:
    """What is to be put back in one file: two bytes of each of the blocks.

    Those of all pages of a cluster are held at once, so they are numbers and not objects: 6 bytes
    for a page.
    """

    file: PlannedFile
    blocks: array[int] = field(default_factory=lambda: array("I"))
    values: bytearray = field(default_factory=bytearray)

    def add(self, block: int, value: bytes) -> None:
        """Add a block and its two bytes."""
        self.blocks.append(block)
        self.values += value

    def __iter__(self) -> Iterator[tuple[int, bytes]]:
        for number, block in enumerate(self.blocks):
            yield block, bytes(self.values[2 * number : 2 * number + 2])


class _Repair:
    """One run over the relation files of a cluster."""

    def __init__(
        self,
        cluster: Cluster,
        control: ControlData,
        keys: dict[int, _Key],
        summary: RepairSummary,
        jobs: int,
    ) -> None:
        self._cluster = cluster
        self._directory = cluster.data_directory
        self._control = control
        self._keys = keys
        self._summary = summary
        self._jobs = jobs
        self._lock = threading.Lock()
        self._unfit = 0
        version = f"PG_{read_major_version(self._directory)}_{control.catalog_version}"
        with files_as(cluster.os_user):
            plan = make_plan(self._directory, version, lambda oid: oid in keys)
        self._files = [
            file for file in plan.files if isinstance(file.identity.identity, RelationIdentity)
        ]
        summary.files = len(self._files)

    def search(self) -> list[Changes]:
        """Return what is to be written.

        Raises:
            DamagedPagesError: some block could be several pages.
        """
        with ThreadPoolExecutor(self._jobs) as pool:
            parts = list(pool.map(self._search_file, self._files))
        ambiguous = [place for _, places in parts for place in places]
        if ambiguous:
            raise DamagedPagesError(
                f"for {len(ambiguous)} blocks of {self._directory} it cannot be told what stood in "
                f"them: {', '.join(ambiguous[:_MOST_NAMED])}. Nothing was changed",
                remedy="Restore these files from a backup, or the whole cluster.",
            )
        return [changes for changes, _ in parts if changes.blocks]

    def write(self, found: list[Changes]) -> None:
        """Write two bytes of each block, and make the files durable."""
        with files_as(self._cluster.os_user):
            for changes in found:
                path = self._directory / changes.file.path
                descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
                try:
                    for block, value in changes:
                        write_at(descriptor, value, block * PAGE_SIZE + CHECKSUM_BYTES.start)
                    os.fsync(descriptor)
                finally:
                    os.close(descriptor)
        self._summary.repaired = sum(len(changes.blocks) for changes in found)

    def turn_off_what_does_not_fit(self, keystore: Keystore) -> None:
        """Turn checksums off in pg_control if pages, as they were before, do not have them.

        Raises:
            ProgramError: pg_checksums failed.
        """
        if not self._unfit or not self._control.data_checksums:
            return
        run = run_program(
            self._cluster.binaries,
            "pg_checksums",
            ["--disable", "-D", str(self._directory)],
            keystore=keystore,
            os_user=self._cluster.os_user,
        )
        if run.returncode != 0:
            raise ProgramError(
                f"the pages are repaired, but checksums could not be turned off: {run.stderr}",
                remedy=f"tde pg exec -D {self._directory} pg_checksums --disable "
                f"-D {self._directory}",
            )
        self._summary.checksums_off = True

    def _search_file(self, file: PlannedFile) -> tuple[Changes, list[str]]:
        changes = Changes(file)
        ambiguous: list[str] = []
        with files_as(self._cluster.os_user):
            path = self._directory / file.path
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                pages = file.size // PAGE_SIZE
                for first in range(0, pages, _BATCH_PAGES):
                    stored = bytearray(min(_BATCH_PAGES, pages - first) * PAGE_SIZE)
                    read_at(descriptor, memoryview(stored), first * PAGE_SIZE, path)
                    self._search_batch(file, first, stored, changes, ambiguous)
            finally:
                os.close(descriptor)
        return changes, ambiguous

    def _search_batch(
        self,
        file: PlannedFile,
        first: int,
        stored: bytearray,
        changes: Changes,
        ambiguous: list[str],
    ) -> None:
        found = file.identity
        assert found.tablespace is not None  # Only relation files were planned.
        key = self._keys[found.tablespace]
        place = (found.identity.to_core(), found.first_block + first)
        results = _core.find_overwritten(
            key.algorithm.value, key.key, stored, *place, self._control.checkpoint
        )
        pages = bytearray(stored)
        blocks = damaged = 0
        examples: list[str] = []
        for number in range(len(results) // _RESULT):
            verdict = results[number * _RESULT]
            value = results[number * _RESULT + 1 : (number + 1) * _RESULT]
            where = slice(
                number * PAGE_SIZE + CHECKSUM_BYTES.start, number * PAGE_SIZE + CHECKSUM_BYTES.stop
            )
            blocks += verdict != _core.REPAIR_ZERO
            if verdict == _core.REPAIR_AMBIGUOUS:
                ambiguous.append(f"{file.path}, block {first + number}")
            elif verdict == _core.REPAIR_NO_PAGE:
                damaged += 1
                examples.append(f"{file.path}, block {first + number}")
            elif verdict == _core.REPAIR_FOUND and value != stored[where]:
                pages[where] = value
                changes.add(first + number, value)
        unfit = self._count_unfit(key, bytes(pages), *place)
        with self._lock:
            self._summary.pages += blocks
            self._summary.damaged += damaged
            self._summary.damaged_examples += examples[:_MOST_NAMED]
            self._unfit += unfit

    def _count_unfit(
        self, key: _Key, pages: bytes, identity: tuple[int, int, int, int, int], first: int
    ) -> int:
        """Return how many pages, as repaired, have a checksum that is wrong."""
        cipher = make_cipher(key.algorithm.value, key.key)
        try:
            verdicts = cipher.audit_pages(pages, identity, first, True)
        finally:
            cipher.close()
        return verdicts.count(_core.AUDIT_BAD_CHECKSUM)
