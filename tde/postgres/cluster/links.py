"""Directories that a cluster reaches through links: pg_wal and the tablespaces."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path

from tde.postgres.server.cluster_files import read_cluster_file

_OID = re.compile(r"[1-9][0-9]{0,9}")

#: What a directory is, by whatever path it is reached: device and inode.
DirectoryId = tuple[int, int]

# As the server reads it (c_ext/format/keymap.c); only `tde tablespace create` makes it.
_NAMED_KEY = re.compile(r"tde-[0-9a-f]{32}")


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


def restored_tablespaces(data_directory: Path) -> dict[int, Path]:
    """Return the tablespaces of a base backup whose links the server makes at its first start.

    A backup in tar format has them in tablespace_map, which counts beside a backup_label only.
    """
    file = data_directory / "tablespace_map"
    if not file.exists() or not (data_directory / "backup_label").exists():
        return {}
    return tablespaces_in(read_cluster_file(data_directory, file.name))


def tablespaces_in(content: bytes) -> dict[int, Path]:
    """Return the tablespaces that a tablespace_map names."""
    # A newline or a backslash within a location stands behind a backslash.
    text = content.decode("utf-8", "surrogateescape")
    lines = re.findall(r"(?:\\.|[^\\\n])+", text, re.DOTALL)
    named = (re.sub(r"\\(.)", r"\1", line, flags=re.DOTALL).partition(" ") for line in lines)
    return {
        int(oid): Path(location) for oid, _, location in named if oid.isascii() and oid.isdigit()
    }


def names_its_key(data_directory: Path, oid: int) -> bool:
    """Tell whether a tablespace was made with a key that its location names.

    A restore to another place may have lost the name.
    """
    link = data_directory / "pg_tblspc" / str(oid)
    # The link of one in a backup in tar format is not there yet.
    restored = str(restored_tablespaces(data_directory).get(oid, ""))
    place = str(link.readlink()) if link.is_symlink() else restored
    return any(_NAMED_KEY.fullmatch(part) for part in place.split("/"))


def tablespace_oids(data_directory: Path) -> list[int]:
    """Return the OIDs of the user-made tablespaces: the names of the links in pg_tblspc."""
    entries = (data_directory / "pg_tblspc").iterdir()
    # Other digits than those of ASCII are digits, too, and superscripts are no numbers.
    return [int(entry.name) for entry in entries if _OID.fullmatch(entry.name)]
