"""The name of pg_control while a cluster is converted.

While a cluster is a mixture, no server may start on it, with or without tde. Without
global/pg_control none does, and no tool of PostgreSQL touches the cluster; so it has another
name from before the first block is changed until after the last.
"""

from __future__ import annotations

import hashlib
import os
import sys
from pathlib import Path

from tde import _core
from tde.convert.journal import sync_directory
from tde.convert.transfers import read_at, write_at
from tde.errors import ConversionError
from tde.postgres.cluster.unfinished_conversion import MOVED_CONTROL
from tde.postgres.facts import CONTROL_CATALOG_VERSION, CONTROL_FILE, CONTROL_SECTOR_BYTES
from tde.postgres.server.cluster_files import read_beginning, read_cluster_file

_IDENTIFIER = slice(0, 8)  # ControlFileData.system_identifier is its first member.


def is_control_moved(data_directory: Path) -> bool:
    """Tell whether the cluster may be a mixture, so that no server may start.

    Raises:
        ConversionError: there is neither or both of the two names.
    """
    here = os.path.lexists(data_directory / CONTROL_FILE)
    moved = os.path.lexists(data_directory / MOVED_CONTROL)
    if here == moved:
        raise ConversionError(
            f"{data_directory} has {'both' if here else 'neither'} {CONTROL_FILE} "
            f"{'and' if here else 'nor'} {MOVED_CONTROL}",
            remedy="Somebody has copied, moved or removed one of them. Restore the cluster from a "
            "backup, or undo that change if you know for sure what it was.",
        )
    return moved


def take_out_of_service(data_directory: Path, control: bytes) -> None:
    """Hide pg_control from servers, if none has run since its content was ``control``.

    A server that starts at this moment either has made postmaster.pid before pg_control is
    moved, and is found here, or it does not find pg_control.

    Raises:
        ConversionError: a server runs, or ran since; pg_control has its name again.
    """
    move_control(data_directory, back=False)
    changed = read_cluster_file(data_directory, MOVED_CONTROL) != control
    if changed or os.path.lexists(data_directory / "postmaster.pid"):
        move_control(data_directory, back=True)
        raise ConversionError(
            f"a server was started on {data_directory} in the last moments",
            remedy="Stop it and repeat the command. No file of the cluster has been changed.",
        )


def move_control(data_directory: Path, *, back: bool) -> None:
    """Hide pg_control from servers and tools, or bring it back; durable on return."""
    names = (data_directory / CONTROL_FILE, data_directory / MOVED_CONTROL)
    source, target = reversed(names) if back else names
    source.rename(target)
    sync_directory(target.parent)


def moved_catalog_version(data_directory: Path) -> int:
    """Read the number of the system catalogs' layout while pg_control has its other name.

    pg_controldata would not find the file.
    """
    content = read_beginning(data_directory, MOVED_CONTROL, CONTROL_CATALOG_VERSION.stop)
    return int.from_bytes(content[CONTROL_CATALOG_VERSION], sys.byteorder)


def require_known_layout(content: bytes, data_directory: Path) -> None:
    """Check that pg_control can say that pages have checksums, before any page gets one.

    Raises:
        ConversionError: its layout is not that of PostgreSQL's own versions.
    """
    try:
        _core.control_checksums(content[:CONTROL_SECTOR_BYTES])
    except ValueError as error:
        raise ConversionError(
            f"data checksums cannot be turned on in {data_directory / CONTROL_FILE}: {error}",
            remedy="Turn them on with this server's pg_checksums --enable, and repeat the command; "
            "or leave them off with --no-checksums. No file of the cluster has been changed.",
        ) from error


def moved_control_has_checksums(data_directory: Path) -> bool:
    """Tell whether pg_control says that pages have checksums, while it has its other name."""
    content = read_beginning(data_directory, MOVED_CONTROL, CONTROL_SECTOR_BYTES)
    sector = _core.control_state(content, False)
    return _with_checksums(sector, data_directory) == sector


def _with_checksums(sector: bytes, data_directory: Path) -> bytes:
    try:
        return _core.control_checksums(sector)
    except ValueError as error:
        raise ConversionError(
            f"{data_directory / MOVED_CONTROL} cannot be used: {error}",
            remedy="It was right when the conversion began. Restore the cluster from a backup.",
        ) from error


def control_digest(content: bytes) -> str:
    """Return what tells one content of pg_control from every other one."""
    return hashlib.sha256(content).hexdigest()


def system_identifier(data_directory: Path) -> int:
    """Read the cluster's system identifier, whichever name pg_control has."""
    moved = is_control_moved(data_directory)
    name = MOVED_CONTROL if moved else CONTROL_FILE
    return identifier_in(read_beginning(data_directory, name, _IDENTIFIER.stop))


def identifier_in(content: bytes) -> int:
    """Return the system identifier in a content of pg_control."""
    return int.from_bytes(content[_IDENTIFIER], sys.byteorder)


def stored_control(data_directory: Path, *, hidden: bool, turn_on_checksums: bool) -> bytes:
    """Return what pg_control, which has its other name, will be after :func:`store_state`."""
    content = read_cluster_file(data_directory, MOVED_CONTROL)
    sector, rest = content[:CONTROL_SECTOR_BYTES], content[CONTROL_SECTOR_BYTES:]
    return _stored(sector, data_directory, hidden, turn_on_checksums) + rest


def _stored(sector: bytes, data_directory: Path, hidden: bool, turn_on_checksums: bool) -> bytes:
    wanted = _core.control_state(sector, False)
    if turn_on_checksums:
        wanted = _with_checksums(wanted, data_directory)
    return _core.control_state(wanted, hidden)


def store_state(data_directory: Path, *, hidden: bool, turn_on_checksums: bool) -> None:
    """Store the state as an encrypted cluster has it, or as PostgreSQL has it; durable on return.

    A plain server would take a hidden state for a crash, and empty its unlogged tables. It is one
    sector, which disks write as a whole, so a repetition finds the old or the new form.

    Args:
        turn_on_checksums: say also that pages have checksums, as all of them have by now.
    """
    path = data_directory / MOVED_CONTROL
    descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        sector = bytearray(CONTROL_SECTOR_BYTES)
        read_at(descriptor, memoryview(sector), 0, path)
        wanted = _stored(bytes(sector), data_directory, hidden, turn_on_checksums)
        if wanted != sector:
            write_at(descriptor, wanted, 0)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
