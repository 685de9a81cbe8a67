"""Checks before the first byte of a cluster is changed."""

from __future__ import annotations

import os
import resource
import shutil
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

from tde.convert.blocks import (
    SAMPLES_PER_BLOCK,
    BlockCipher,
    CipherChange,
    CipherName,
    Direction,
    convert,
    invalid_pages,
)
from tde.convert.plan import Plan, PlannedFile
from tde.errors import ConversionError, UnsupportedServerError
from tde.page.codec import PAGE_SIZE
from tde.page.identity import RelationIdentity
from tde.postgres.cluster.cluster import Cluster
from tde.postgres.cluster.unfinished_conversion import read_finished_control_data
from tde.postgres.facts import CLEAN_STATES, CONTROL_FILE, PAGE_BYTES, SEGMENT_PAGES
from tde.postgres.server.binaries import PostgresBinaries
from tde.postgres.server.build import require_supported_build
from tde.postgres.server.control import ControlData
from tde.postgres.server.os_user import OsUser

_LEFTOVERS = {
    "postmaster.pid": "A server may be running, or was killed. Start the server and stop it.",
    "backup_label": "This is a base backup that was never started. Start the server and stop it.",
    "tablespace_map": "This is a base backup that was never started. Start the server and stop it.",
    "global/pg_control.old": "pg_upgrade has retired this cluster; convert the new one instead.",
}
_MOST_NAMED = 3
_HEADROOM = 1 << 20  # Bytes for what is in the journal besides samples.
# Of each thread: a file, its record file, a directory that is synced; and what the process opens.
_FILES_OF_THREAD = 4
_OTHER_FILES = 24


def require_no_server(cluster: Cluster) -> None:
    """Refuse a cluster whose server runs.

    Raises:
        ConversionError: it runs.
    """
    pid = cluster.pid
    if pid is not None:
        raise ConversionError(
            f"the server in {cluster.data_directory} is running (pid {pid})",
            remedy=f"Stop it: tde pg stop -D {cluster.data_directory}, or pg_ctl stop.",
        )


def require_stopped_cleanly(cluster: Cluster) -> ControlData:
    """Check the cluster's state and format, and return what pg_control says.

    Raises:
        ConversionError: a server runs, or the last one did not shut down cleanly.
        UnsupportedServerError: the block or segment size is not supported.
    """
    directory = cluster.data_directory
    for name, remedy in _LEFTOVERS.items():
        if os.path.lexists(directory / name):
            raise ConversionError(f"{directory / name} exists", remedy=remedy)
    control = read_finished_control_data(directory, cluster.binaries, cluster.os_user)
    if control.state not in CLEAN_STATES:
        raise ConversionError(
            f"the cluster {directory} was not shut down cleanly: its state is {control.state}",
            remedy="Start the server, let it recover, and stop it in mode smart or fast.",
        )
    if (control.page_bytes, control.segment_pages) != (PAGE_BYTES, SEGMENT_PAGES):
        raise UnsupportedServerError(
            f"the cluster {directory} has pages of {control.page_bytes} bytes and segments of "
            f"{control.segment_pages} pages",
            remedy=f"Only {PAGE_BYTES} bytes and {SEGMENT_PAGES} pages, the defaults, can be "
            "encrypted: dump the database and restore it into such a cluster.",
        )
    return control


@lru_cache
def require_encrypting_server(binaries: PostgresBinaries, os_user: OsUser | None) -> None:
    """Check that the server will be able to work on the encrypted cluster; once per process.

    Raises:
        UnsupportedServerError: the build has other sizes or does file I/O in unknown ways.
        InterposerError: the interposer was not built.
    """
    require_supported_build(binaries, os_user)


def require_writable_control(data_directory: Path) -> None:
    """Check that the state can be stored in pg_control, which is the last step of a conversion.

    The caller has the rights of the server's user.

    Raises:
        ConversionError: that user cannot write it.
    """
    path = data_directory / CONTROL_FILE
    try:
        os.close(os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC))
    except OSError as error:
        raise ConversionError(
            f"cannot open {path} for reading and writing: {error.strerror}",
            remedy="The server's user must be able to write it. No file of the cluster has been "
            "changed.",
        ) from error


def require_room(data_directory: Path, plan: Plan, jobs: int) -> None:
    """Check that the journal fits; it is kept only for files that are in work.

    Raises:
        ConversionError: with the number of bytes that are needed.
    """
    segment = SEGMENT_PAGES * PAGE_SIZE
    in_work = min(plan.size, jobs * 8 * segment)
    needed = in_work // PAGE_SIZE * SAMPLES_PER_BLOCK + len(plan.files) * 128 + _HEADROOM
    free = shutil.disk_usage(data_directory).free
    if free < needed:
        raise ConversionError(
            f"the journal of the conversion may need {needed >> 20} MiB in {data_directory}, and "
            f"{free >> 20} MiB are free",
            remedy="Make room. No file of the cluster has been changed.",
        )


def require_descriptors(jobs: int) -> None:
    """Raise the limit on open files if it is too low for the threads.

    Raises:
        ConversionError: it may not be raised so far.
    """
    now = sum(1 for _ in Path("/proc/self/fd").iterdir())
    needed = now + jobs * _FILES_OF_THREAD + _OTHER_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise ConversionError(
            f"a process may have {hard} files open, and a conversion with {jobs} threads needs "
            f"{needed}",
            remedy="Raise the limit (ulimit -n), or give fewer --jobs. No file of the cluster has "
            "been changed.",
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


def require_usable_files(
    data_directory: Path,
    plan: Plan,
    ciphers: Mapping[CipherName, BlockCipher],
    direction: Direction,
    *,
    allow_invalid: bool,
) -> None:
    """Open every file for writing, and look at the first page of each relation file.

    A wrong key, a cluster that is encrypted already, or a copy that mixes both would show here.

    Args:
        ciphers: used to decrypt; not looked at when encrypting.
        allow_invalid: go on although first pages are invalid.

    Raises:
        ConversionError: a file cannot be opened, or is not in the form to convert from.
    """
    invalid: list[str] = []
    files = (*plan.files, *plan.plain_files)
    for file in files:
        path = data_directory / file.path
        first = read_first_page(path)
        if first is not None and not _is_page(file, first, ciphers, direction):
            invalid.append(str(path))
    if invalid and not allow_invalid:
        form = "plain" if direction is Direction.ENCRYPT else "encrypted"
        raise ConversionError(
            f"{len(invalid)} of {len(files)} files do not begin with a valid {form} page: "
            + ", ".join(invalid[:_MOST_NAMED])
            + (", …" if len(invalid) > _MOST_NAMED else ""),
            remedy=f"Perhaps they are not {form} at all, or damaged (see pg_checksums, tde pg "
            "audit). If the damage is known and you want to keep it as it is: "
            "--allow-invalid-pages. No file of the cluster has been changed.",
        )


def read_first_page(path: Path) -> bytearray | None:
    """Return the first page, or None of an empty file.

    Raises:
        ConversionError: the file cannot be opened for writing.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            page = bytearray(PAGE_SIZE)
            return page if os.preadv(descriptor, [page], 0) == PAGE_SIZE else None
        finally:
            os.close(descriptor)
    except OSError as error:
        raise ConversionError(
            f"cannot open {path} for reading and writing: {error.strerror}",
            remedy="The server's user must be able to write it. No file of the cluster has been "
            "changed.",
        ) from error


def _is_page(
    file: PlannedFile,
    page: bytearray,
    ciphers: Mapping[CipherName, BlockCipher],
    direction: Direction,
) -> bool:
    found = file.identity
    if not isinstance(found.identity, RelationIdentity):
        # A recycled WAL segment may hold anything; its name has changed since it was written.
        return True
    view = memoryview(page)
    if direction is not Direction.ENCRYPT:
        cipher = ciphers[found.tablespace]
        old = cipher.old if isinstance(cipher, CipherChange) else cipher
        convert(view, old, found.identity, found.first_block, Direction.DECRYPT)
    return not invalid_pages(view)
