"""Directories that a cluster reaches through links: pg_wal and the tablespaces."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path

_OID = re.compile(r"[1-9][0-9]{0,9}")

#: What a directory is, by whatever path it is reached: device and inode.
DirectoryId = tuple[int, int]


def linked_directories(data_directory: Path) -> frozenset[DirectoryId]:
    """Return where the links of pg_wal and of pg_tblspc lead to.

    PostgreSQL lets them lead to places inside the data directory. Whoever walks the cluster then
    meets such a directory twice; only the link is the path by which the server knows its files.
    """
    links = [data_directory / "pg_wal"]
    with suppress(OSError):
        links += (data_directory / "pg_tblspc").iterdir()
    found = set()
    for link in links:
        # What is broken or forbidden is reported by whoever walks there.
        with suppress(OSError):
            if link.is_symlink():
                found.add(directory_id(link.stat()))
    return frozenset(found)


def is_link_of_cluster(path: str) -> bool:
    """Tell whether a path relative to the data directory is that of pg_wal or a tablespace."""
    parts = path.split("/")
    return parts == ["pg_wal"] or (len(parts) == 2 and parts[0] == "pg_tblspc")


def directory_id(status: os.stat_result) -> DirectoryId:
    """Return what identifies a directory."""
    return (status.st_dev, status.st_ino)


def tablespace_oids(data_directory: Path) -> list[int]:
    """Return the OIDs of the user-made tablespaces: the names of the links in pg_tblspc."""
    entries = (data_directory / "pg_tblspc").iterdir()
    # Other digits than those of ASCII are digits, too, and superscripts are no numbers.
    return [int(entry.name) for entry in entries if _OID.fullmatch(entry.name)]
