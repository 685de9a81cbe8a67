"""Proof that a cluster's storage is encrypted: look for a known row in its files.

A benchmark of encryption that is not on measures nothing, so every run starts here. The same
search must find the row in the plain cluster; a search that finds nothing anywhere is broken.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg2

from tde_bench.errors import CanaryError
from tde_bench.servers.database import Connection, execute, fetch_row

# Reading in chunks, unlike mmap, cannot end in SIGBUS when the live server truncates a file.
CHUNK_BYTES = 4 * 1024 * 1024

# Reading more would take minutes, and push the caches of a server that others use out of memory.
MAXIMUM_BYTES = 100 * 10**9

_TABLE = "tde_bench_canary"
_WAL_SEGMENT = re.compile(r"[0-9A-F]{24}")


@dataclass(frozen=True)
class CanaryReport:
    """Where a marker was looked for and found; paths are relative to the data directory.

    Attributes:
        not_checked: why nothing was searched; None when it was.
    """

    files_searched: int
    bytes_searched: int
    relation_files: tuple[str, ...]
    wal_files: tuple[str, ...]
    other_files: tuple[str, ...]
    not_checked: str | None = None

    @classmethod
    def without_search(cls, reason: str) -> CanaryReport:
        """Return the report of a search that was not made."""
        return cls(0, 0, (), (), (), not_checked=reason)

    @property
    def found(self) -> tuple[str, ...]:
        """Every file that holds the marker in plaintext."""
        return self.relation_files + self.wal_files + self.other_files


def new_marker() -> str:
    """Return a text that occurs nowhere by chance and that PostgreSQL stores uncompressed."""
    return f"tde-canary-{secrets.token_hex(24)}"


def data_files(data_directory: Path) -> Iterator[Path]:
    """Yield all regular files of a cluster, through the links of tablespaces and WAL as well."""
    for folder, _, names in os.walk(data_directory, followlinks=True):
        for name in names:
            path = Path(folder, name)
            if path.is_file():
                yield path


def stored_bytes(data_directory: Path) -> int:
    """Return how many bytes a search would read, as far as files do not come and go."""
    total = 0
    for path in data_files(data_directory):
        with contextlib.suppress(FileNotFoundError):
            total += path.stat().st_size
    return total


def file_contains(path: Path, marker: bytes, *, chunk_bytes: int = CHUNK_BYTES) -> bool:
    """Tell whether ``marker`` occurs in the file, wherever chunk boundaries fall.

    The end of each chunk is kept in front of the next one, one byte shorter than the marker:
    enough to see a marker that spans them, too short to hold one that was seen already.
    """
    if not marker:
        raise ValueError("the marker is empty")
    tail = b""
    with path.open("rb", buffering=0) as file:
        while chunk := file.read(chunk_bytes):
            window = tail + chunk
            if marker in window:
                return True
            tail = window[-(len(marker) - 1) :] if len(marker) > 1 else b""
    return False


def search(
    data_directory: Path, marker: bytes, *, must_search: frozenset[str] = frozenset()
) -> CanaryReport:
    """Look for ``marker`` in all files below ``data_directory``.

    Files that the server removes during the search are skipped, unless they are in
    ``must_search`` (paths relative to the data directory).

    Raises:
        CanaryError: when a file of ``must_search`` was not read.
        OSError: when a file cannot be read.
    """
    searched: set[str] = set()
    total = 0
    relations: list[str] = []
    wal: list[str] = []
    others: list[str] = []
    for path in data_files(data_directory):
        name = str(path.relative_to(data_directory))
        try:
            total += path.stat().st_size
            hit = file_contains(path, marker)
        except FileNotFoundError:
            continue
        searched.add(name)
        if hit:
            _matching_list(name, relations, wal, others).append(name)
    if missing := must_search - searched:
        raise CanaryError(
            f"the canary search did not read {', '.join(sorted(missing))} in {data_directory}"
        )
    return CanaryReport(
        len(searched), total, tuple(sorted(relations)), tuple(sorted(wal)), tuple(sorted(others))
    )


def _matching_list(name: str, relations: list[str], wal: list[str], others: list[str]) -> list[str]:
    """Choose the list for a file by what it holds."""
    path = Path(name)
    if path.parts[0] in ("base", "global", "pg_tblspc"):
        return relations
    if _WAL_SEGMENT.fullmatch(path.name):
        return wal
    return others


def plant_and_search(connection: Connection, data_directory: Path) -> CanaryReport:
    """Write a marker row through SQL, force it to disk, and search the cluster's files for it.

    Nothing is searched in more than :data:`MAXIMUM_BYTES`, or when the user lacks a right that is
    needed to force the row to disk; the report then says why.

    Args:
        connection: a psycopg2 connection in autocommit mode.
        data_directory: the server's data directory, readable by this process.
    """
    size = stored_bytes(data_directory)
    if size > MAXIMUM_BYTES:
        return CanaryReport.without_search(
            f"the server has {size / 1e9:.0f} GB of files, and more than "
            f"{MAXIMUM_BYTES / 1e9:.0f} GB are not read"
        )
    marker = new_marker()
    execute(connection, f"CREATE TABLE {_TABLE} (marker text)")
    try:
        return search(data_directory, marker.encode(), must_search=_plant(connection, marker))
    except psycopg2.errors.InsufficientPrivilege as error:
        return CanaryReport.without_search(f"the user lacks a right: {error}".strip())
    finally:
        execute(connection, f"DROP TABLE {_TABLE}")


def _plant(connection: Connection, marker: str) -> frozenset[str]:
    """Bring the marker to disk; return the files that must hold it now.

    The first copy of the row reaches the relation file with the CHECKPOINT. The second copy
    comes after it, because a checkpoint may recycle the WAL that is older than itself.
    """
    insert = f"INSERT INTO {_TABLE} VALUES (%s)"
    execute(connection, insert, (marker,))
    execute(connection, "CHECKPOINT")
    execute(connection, insert, (marker,))
    names = fetch_row(
        connection,
        "SELECT pg_relation_filepath(%s), 'pg_wal/' || pg_walfile_name(pg_current_wal_lsn())",
        (_TABLE,),
    )
    execute(connection, "SELECT pg_switch_wal()")
    return frozenset(names)


def require(report: CanaryReport, *, encrypted: bool, label: str) -> None:
    """Stop the run unless the search gave what the configuration promises.

    Raises:
        CanaryError: when an encrypted cluster holds plaintext, or when the search misses the
            row in a plain cluster, which means that it would miss it everywhere; or when there
            was no search.
    """
    if report.not_checked is not None:
        raise CanaryError(f"the canary of {label} was not looked for: {report.not_checked}")
    if encrypted and report.found:
        raise CanaryError(
            f"the configuration {label} is not encrypted: a known row is in plaintext in "
            + ", ".join(report.found),
            remedy="A result would measure nothing. Check the server with `tde pg status`.",
        )
    if not encrypted and not (report.relation_files and report.wal_files):
        raise CanaryError(
            f"the canary search is broken: the unencrypted configuration {label} must hold the "
            "known row in a relation file and in WAL, but the search found it in "
            + (", ".join(report.found) or "no file")
        )
