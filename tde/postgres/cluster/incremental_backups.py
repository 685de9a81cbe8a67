"""The question before an incremental backup: does the backup before it have the same keys?

pg_combinebackup asks it of both key maps (c_ext/interpose/policy/combine.c), but that may be
months later. Here the manifest of the earlier backup tells which beginning of the server's map it
has.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tde.errors import ClusterKeystoreError, DataDirectoryError
from tde.postgres.cluster.keymap import KEYMAP_FILE, LONGEST_MAP, parse_map
from tde.postgres.facts import BUILT_IN_TABLESPACES
from tde.postgres.server.cluster_files import read_beginning
from tde.postgres.server.file_user import files_as
from tde.postgres.server.named_server import earlier_manifest, names_server

if TYPE_CHECKING:
    from tde.postgres.cluster.cluster import Cluster


def require_same_keys_since(cluster: Cluster, arguments: Sequence[str]) -> None:
    """Check that pg_basebackup takes no incremental backup that a rekey has made worthless.

    A backup of which the manifest does not tell that it is of this server is left to
    pg_combinebackup, and so is another server than that of the cluster's data directory.

    Raises:
        ClusterKeystoreError: a tablespace has got another key since the earlier backup.
        KeyMapError: the map of the cluster cannot be used.
    """
    manifest = earlier_manifest(arguments)
    marker = cluster.marker
    if manifest is None or marker is None or cluster.pid is None:
        return
    if names_server("pg_basebackup", arguments, os.environ):
        return
    directory = cluster.data_directory
    try:
        with files_as(cluster.os_user):
            file = _file_of_map(Path(manifest))
            data = read_beginning(directory, KEYMAP_FILE, LONGEST_MAP)
        if file is None or not _is_beginning(file, data):
            return
    except (OSError, ValueError, DataDirectoryError):
        return  # The program will say what is wrong with the manifest, or the server with the map.
    now, before = (
        parse_map(content, directory / KEYMAP_FILE, marker.keystore_uuid, None)
        for content in (data, data[: file["Size"]])
    )
    for oid in (*BUILT_IN_TABLESPACES, *before.entries):
        if before.find(oid) != now.find(oid):
            raise ClusterKeystoreError(
                f"tablespace {oid} has got another key since the backup of {manifest}, with which "
                "an incremental backup of today could not be combined",
                remedy="Take a full backup, and incremental ones after that.",
            )


def _file_of_map(manifest: Path) -> Mapping[str, Any] | None:
    """Return what a manifest says of the key map; each file has a line of its own."""
    name = f'"{KEYMAP_FILE}"'
    with manifest.open(encoding="utf-8") as lines:
        for line in lines:
            if name in line:
                file: Mapping[str, Any] = json.loads(line.strip().rstrip(","))
                if file.get("Path") == KEYMAP_FILE:
                    return file
    return None


def _is_beginning(file: Mapping[str, Any], data: bytes) -> bool:
    """Tell whether a map begins with the one that a manifest describes."""
    beginning = data[: file["Size"]]
    algorithm = file.get("Checksum-Algorithm")
    if len(beginning) != file["Size"] or algorithm is None:
        return False
    if algorithm == "CRC32C":
        found = _crc32c(beginning)
    else:
        found = hashlib.new(algorithm, beginning).digest()
    return bool(found.hex() == file["Checksum"])


def _crc32c(data: bytes) -> bytes:
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return (crc ^ 0xFFFFFFFF).to_bytes(4, "little")
