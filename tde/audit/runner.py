"""The audit itself: walk, judge in threads, add up."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import ExitStack
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Protocol

from tde.audit.archives import Judged, judge_archive
from tde.audit.explain import Explainer
from tde.audit.inventory import AuditedFile, Place, unreadable
from tde.audit.keys import AuditKeys, Protection
from tde.audit.ledger import Ledger
from tde.audit.listing import list_place
from tde.audit.places import find_places
from tde.audit.report import AuditReport, FileClass, Finding
from tde.audit.scan import Stretch, Task, scan
from tde.audit.tally import Tally
from tde.audit.tar import TarArchive
from tde.errors import ClusterKeystoreError
from tde.postgres.cluster.keymap import KeyMap, map_key
from tde.postgres.cluster.keys import require_cluster_keys
from tde.postgres.cluster.landed_keys import known_map
from tde.postgres.cluster.marker import require_matching_keystore
from tde.postgres.cluster.unfinished_conversion import require_not_converting
from tde.postgres.tablespace.plain_copies import find_plain_copies

if TYPE_CHECKING:
    from tde.keystore import Keystore
    from tde.postgres.cluster.cluster import Cluster

_STRETCH = 64 << 20  # Bytes; enough for threads to share a relation of one file.
_CANARY_BYTES = 1024  # What may be left of a canary in front of a chunk.


class AuditObserver(Protocol):
    """Receives the progress of an audit, always in the thread that called it."""

    def found(self, total: int) -> None:
        """So many bytes are to be read in all; called again when more files appear."""

    def read(self, count: int, name: str) -> None:
        """So many more bytes of a file were judged."""


class _Silent:
    """The observer of an audit that nobody watches."""

    def found(self, total: int) -> None: ...

    def read(self, count: int, name: str) -> None: ...


def audit(
    cluster: Cluster,
    keystore: Keystore,
    *,
    archives: Sequence[Path] = (),
    backups: Sequence[Path] = (),
    jobs: int | None = None,
    canary: str | None = None,
    observer: AuditObserver | None = None,
    username: str | None = None,
) -> AuditReport:
    """Prove, file by file, that what should be ciphertext is.

    The server may run or not. Nothing is written. A running server is asked for plaintext copies
    of encrypted rows where only some tablespaces are encrypted.

    Args:
        keystore: the cluster's, open.
        archives: directories of archived WAL segments, compressed or not.
        backups: base backups in plain or tar format, of pgBackRest or Barman; of these also a
            whole repository, or a server's directory, with the WAL in it.
        jobs: threads; as many as there are processors by default.
        canary: a text to search for, 1 to 1024 bytes in UTF-8 and UTF-16.
        observer: is told about the progress.
        username: a superuser of the database, to ask the server as; by default the one that
            initdb made.

    Raises:
        ClusterKeystoreError: the cluster is not encrypted, or the keystore is not its own or
            lacks a key that every cluster has.
        ConversionError: a conversion was interrupted and is unfinished.
        DataDirectoryError: there is no cluster, archive or backup in a directory.
        KeystoreError: a key cannot be used.
        ValueError: the canary is empty or too long.
    """
    needles = _needles(canary)
    directory = cluster.data_directory
    require_not_converting(directory)
    marker = cluster.marker
    if marker is None:
        raise ClusterKeystoreError(
            f"the cluster {directory} is not encrypted: nothing in it should be ciphertext",
            remedy="Encrypt it with tde pg encrypt, or create another one with tde pg init.",
        )
    require_matching_keystore(directory, marker, keystore.uuid)
    # Without its record pg_default would be judged with a derived key, and all of it be a finding.
    require_cluster_keys(keystore, directory)
    started = time.monotonic()
    authentication = map_key(keystore)

    def read_map(place: Path) -> KeyMap:
        return known_map(place, keystore.path, authentication)

    with ExitStack() as stack:
        places = find_places(cluster, archives, backups, stack)
        keys = stack.enter_context(AuditKeys(keystore, directory, read_map))
        run = _Run(keys, Ledger(keys, marker.scope), needles, observer or _Silent())
        run.ledger.add_findings(places.findings)
        run.ledger.add_warnings(places.warnings)
        run.audit(places.found, jobs or len(os.sched_getaffinity(0)))
        return AuditReport(
            data_directory=directory,
            running=places.found[0].live,
            scope=marker.scope.value,
            checksums=places.found[0].control.data_checksums,
            lines=run.ledger.lines(),
            findings=run.ledger.findings(),
            warnings=run.ledger.warnings(),
            plain=run.ledger.plain(),
            canary=canary is not None,
            seconds=time.monotonic() - started,
            plain_copies=find_plain_copies(cluster, keystore.path, username=username),
        )


class _Run:
    """One audit's state, used by the calling thread only."""

    def __init__(
        self,
        keys: AuditKeys,
        ledger: Ledger,
        needles: tuple[bytes, ...],
        observer: AuditObserver,
    ) -> None:
        self.keys = keys
        self.ledger = ledger
        self._needles = needles
        self._observer = observer
        self._stop = threading.Event()
        self._total = 0
        self._explainer: Explainer | None = None
        # Threads that read archives ask for the keys of files that nobody knew before.
        self._of_keys = threading.Lock()

    def audit(self, places: Sequence[Place], jobs: int) -> None:
        """Judge all files of all places, and then those that appeared meanwhile."""
        seen: set[Path] = set()
        for again in (False, True):
            files = []
            for place in places:
                if place.live or not again:
                    found, findings = list_place(place)
                    self.ledger.add_findings(findings)
                    files += [file for file in found if file.path not in seen]
            # Keys are looked up after the walk: a tablespace has its key before its first file.
            self.ledger.add_places(places)
            seen.update(file.path for file in files)
            self._judge(files, jobs)
        self._judge_archives([(place, tar) for place in places for tar in place.tars], jobs)
        self.ledger.judge_zeros()

    def _judge(self, files: Sequence[AuditedFile], jobs: int) -> None:
        self._explainer = self._explainer or Explainer(self.keys, files)
        work = []
        for file in files:
            self.ledger.add_file(file)
            if file.size and (task := self._task(file)):
                work += [(stretch, task) for stretch in _stretches(file)]
        self._total += sum(stretch.length for stretch, _ in work)
        self._observer.found(self._total)
        with ThreadPoolExecutor(jobs, thread_name_prefix="tde-audit") as pool:
            try:
                self._collect(pool, work)
            except BaseException:
                # Threads look at this between chunks, so Ctrl-C ends within milliseconds.
                self._stop.set()
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def _collect(self, pool: ThreadPoolExecutor, work: Sequence[tuple[Stretch, Task]]) -> None:
        pending: dict[Future[Tally], Stretch] = {
            pool.submit(scan, stretch, task): stretch for stretch, task in work
        }
        for future in as_completed(pending):
            stretch = pending[future]
            try:
                self.ledger.add_tally(stretch.file, future.result())
            except OSError as error:
                self.ledger.add_findings([unreadable(stretch.file.path, error)])
            self._observer.read(stretch.length, stretch.file.name)

    def _judge_archives(self, tars: Sequence[tuple[Place, TarArchive]], jobs: int) -> None:
        """Judge the files in archives, and add them up as they come."""
        sizes = {tar.path: tar.path.stat().st_size for _, tar in tars}
        self._total += sum(sizes.values())
        self._observer.found(self._total)
        results: SimpleQueue[Judged | Finding | TarArchive] = SimpleQueue()

        def read(place: Place, tar: TarArchive) -> None:
            try:
                judge_archive(place, tar, self._task, results.put)
            except OSError as error:
                results.put(unreadable(tar.path, error))
            finally:
                results.put(tar)

        with ThreadPoolExecutor(jobs, thread_name_prefix="tde-audit") as pool:
            try:
                futures = [pool.submit(read, place, tar) for place, tar in tars]
                self._collect_judged(results, sizes)
                for future in futures:
                    future.result()
            except BaseException:
                self._stop.set()
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def _collect_judged(
        self, results: SimpleQueue[Judged | Finding | TarArchive], sizes: dict[Path, int]
    ) -> None:
        left = len(sizes)
        while left:
            result = results.get()
            if isinstance(result, TarArchive):
                left -= 1
                self._observer.read(sizes[result.path], result.path.name)
            elif isinstance(result, Finding):
                self.ledger.add_findings([result])
            else:
                self.ledger.add_file(result.file)
                if result.tally is not None:
                    self.ledger.add_tally(result.file, result.tally)

    def _task(self, file: AuditedFile) -> Task | None:
        """Return how a file is judged; ``None`` when it does not have to be read."""
        assert self._explainer is not None
        with self._of_keys:
            if not self._is_read(file):
                return None
            protection = self._protection(file)
        return Task(protection, self._needles, self._explainer.explain, self._stop)

    def _is_read(self, file: AuditedFile) -> bool:
        """Tell whether a file has to be read: all are, when there is a canary or a checksum."""
        if self._needles or (file.content is not None and file.content.sha1):
            return True
        if file.tablespace is not None:
            return self._protection(file).cipher is not None
        return file.file_class in (FileClass.WAL, FileClass.EPHEMERAL)

    def _protection(self, file: AuditedFile) -> Protection:
        if file.file_class is FileClass.WAL:
            return self.keys.wal
        if file.tablespace is not None:
            return self.keys.tablespace(file.tablespace, file.place.home)
        return Protection()


def _stretches(file: AuditedFile) -> list[Stretch]:
    """Divide a file; a segment, whose blocks are judged together, and a stream stay whole."""
    whole = file.file_class is FileClass.WAL or file.content is not None
    length = file.size if whole else _STRETCH
    return [
        Stretch(file, start, min(length, file.size - start))
        for start in range(0, file.size, length)
    ]


def _needles(canary: str | None) -> tuple[bytes, ...]:
    if canary is None:
        return ()
    needles = (canary.encode(), canary.encode("utf-16-le"))
    if not canary or max(map(len, needles)) > _CANARY_BYTES:
        raise ValueError(f"a canary has 1 to {_CANARY_BYTES} bytes")
    return needles
