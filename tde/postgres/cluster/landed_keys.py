"""Clusters of releases before the key map: what their tablespaces' keys are.

These releases decided at each open: a tablespace has the key of ``keys/<OID>.key`` if that file is
there, else one derived from its OID. Whether a file was lost shows only in the pages, so some of
them are looked at before the decision is written down for good.
"""

from __future__ import annotations

import logging
import struct
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from tde.errors import ClusterKeystoreError, IdentityError, KeyMapError
from tde.page.codec import PAGE_SIZE, PageCipher
from tde.page.identity import FileIdentity
from tde.postgres.cluster.keymap import (
    KEYMAP_FILE,
    MAP_SOURCE,
    KeyMap,
    KeySource,
    MapEntry,
    map_key,
    read_map,
    write_map,
)
from tde.postgres.cluster.links import names_its_key, restored_tablespaces, tablespace_oids
from tde.postgres.cluster.lock import cluster_lock
from tde.postgres.cluster.marker import MARKER_FILE, Marker, read_marker
from tde.postgres.facts import BUILT_IN_TABLESPACES, PG_GLOBAL_OID
from tde.postgres.server.cluster_files import read_beginning
from tde.postgres.server.os_user import OsUser
from tde.postgres.server.pidfile import read_postmaster_file

if TYPE_CHECKING:
    from tde.keystore import Keystore

_log = logging.getLogger(__name__)

# A page may be torn after a crash, so one that does not fit is not yet a proof.
_SAMPLE_PAGES = 16
_HEADER = struct.Struct("<8xHHHHHH4x")  # checksum, flags, lower, upper, special, size and version
_SIZE_AND_VERSION = PAGE_SIZE | 4
_VALID_FLAGS = 7


def known_map(data_directory: Path, keystore_path: Path, key: bytes | None) -> KeyMap:
    """Return the map of an encrypted cluster, or what a release before the map would decide.

    Args:
        keystore_path: the cluster's keystore, which is not opened.
        key: authenticates the map; ``None`` to look only at its form.

    Raises:
        KeyMapError: it is missing or cannot be used.
        KeystoreError: the keystore cannot be inspected.
    """
    from tde.keystore import keystore_uuid

    marker = read_marker(data_directory)
    # A map counts whatever the marker says, which anybody may have put back, and which goes first
    # when a cluster is decrypted.
    if (marker is not None and marker.has_map) or (data_directory / KEYMAP_FILE).exists():
        owner = keystore_uuid(keystore_path) if marker is None else marker.keystore_uuid
        return read_map(data_directory, owner, key)
    if marker is not None:
        _require_no_named_keys(data_directory)
    return KeyMap(landed_entries(data_directory, keystore_path))


def landed_entries(data_directory: Path, keystore_path: Path) -> list[MapEntry]:
    """Return what a release before the map would decide, from the names of files alone.

    So does an encryption, for which the keys are made under these names. The locations of an
    earlier life of the cluster, which was decrypted, may name keys: those say nothing.
    """
    from tde.keystore import KeyOwner
    from tde.keystore.store.reading import list_owners

    owners = set(list_owners(keystore_path))
    entries = []
    for oid in sorted({*tablespace_oids(data_directory), *restored_tablespaces(data_directory)}):
        if KeyOwner.tablespace(oid) in owners:
            entries.append(MapEntry(oid, KeySource.RECORD))
        elif KeyOwner.other_tablespaces() in owners:
            entries.append(MapEntry(oid, KeySource.DERIVED))
    return entries


def _require_no_named_keys(data_directory: Path) -> None:
    """Refuse a cluster whose tablespaces were made by a later release, so there was a map.

    Raises:
        KeyMapError: naming the first one.
    """
    for oid in sorted({*tablespace_oids(data_directory), *restored_tablespaces(data_directory)}):
        if names_its_key(data_directory, oid):
            raise KeyMapError(
                f"{data_directory / KEYMAP_FILE} is missing: the location of tablespace {oid} "
                f"names its key, but {MARKER_FILE} is of a release that named none",
                remedy=f"Restore {KEYMAP_FILE} and {MARKER_FILE} from {MAP_SOURCE}; without the "
                "map nobody knows which key a tablespace has.",
            )


def ensure_map(data_directory: Path, keystore: Keystore, os_user: OsUser | None) -> None:
    """Give a cluster of a release before the map its map; the server does not run.

    A map that is there already is kept: the start that wrote it ended before it changed the
    marker, or an old marker was put back.

    Raises:
        ClusterKeystoreError: the key file of a tablespace was lost.
        KeyMapError: there is a map that cannot be used.
        KeystoreError: a key cannot be used.
    """
    marker = read_marker(data_directory)
    if marker is None or marker.has_map:
        return
    if (data_directory / KEYMAP_FILE).exists():
        read_map(data_directory, keystore.uuid, map_key(keystore))
        _mark(data_directory, marker, os_user)
        _log.warning(
            "%s said that there is no %s, so it was put back or is of an interrupted start; the "
            "map is authentic and was kept",
            data_directory / MARKER_FILE,
            KEYMAP_FILE,
        )
        return
    _require_no_named_keys(data_directory)
    entries = landed_entries(data_directory, keystore.path)
    for entry in entries:
        if entry.source is KeySource.DERIVED:
            require_derived_key(data_directory, keystore, entry.oid)
    write_map(data_directory, entries, keystore, os_user)
    # Read again as a start will, before the marker says for good that there is a map.
    read_map(data_directory, keystore.uuid, map_key(keystore))
    _mark(data_directory, marker, os_user)
    _log.info("%s: wrote %s for %d tablespaces", data_directory, KEYMAP_FILE, len(entries))


def ensure_map_of_stopped(data_directory: Path, keystore: Keystore, os_user: OsUser | None) -> None:
    """Give a cluster its map, as a start does, before another program works on its tablespaces.

    While a server runs there is nothing to do: one of an earlier release makes tablespaces that
    a map would not have, and the programs that need one refuse to work beside a server.

    Raises:
        ClusterBusyError: another command works on the cluster.
        ClusterKeystoreError: the key file of a tablespace was lost.
        KeystoreError: a key cannot be used.
    """
    marker = read_marker(data_directory)
    if marker is None or marker.has_map or read_postmaster_file(data_directory) is not None:
        return
    with cluster_lock(data_directory):
        if read_postmaster_file(data_directory) is None:
            ensure_map(data_directory, keystore, os_user)


def _mark(data_directory: Path, marker: Marker, os_user: OsUser | None) -> None:
    replace(marker, has_map=True).write(data_directory, os_user)


def require_derived_key(data_directory: Path, keystore: Keystore, oid: int) -> None:
    """Check that the pages of a tablespace fit the key that is derived for it.

    Raises:
        ClusterKeystoreError: none does, so it has a key of its own, whose file was lost.
    """
    from tde.keystore.store.remedies import bring_key
    from tde.postgres.cluster.page_ciphers import page_cipher

    with page_cipher(keystore.derived_key(oid)) as cipher:
        pages = [is_page_of(cipher, *sample) for sample in sample_pages(data_directory, oid)]
    if any(pages):
        return
    name = f"{keystore.path / 'keys' / str(oid)}.key"
    if pages:
        raise ClusterKeystoreError(
            f"the files of tablespace {oid} have a key of their own, but {name} does not exist",
            remedy=f"If there was a {KEYMAP_FILE}, restore that, and {MARKER_FILE} with it. Else "
            f"the key file is missing. {bring_key(keystore.path)}",
        )
    if (data_directory / "standby.signal").exists():
        _log.warning(
            "tablespace %d is empty and %s does not exist, so its key is derived; if the "
            "primary's keystore has that file, make this standby again",
            oid,
            name,
        )


def sample_pages(data_directory: Path, oid: int) -> Iterator[tuple[FileIdentity, bytes]]:
    """Yield first pages of relations of a tablespace that are not zeros."""
    if oid in BUILT_IN_TABLESPACES:
        return islice(_built_in_pages(data_directory, oid), _SAMPLE_PAGES)
    link = data_directory / "pg_tblspc" / str(oid)
    place = restored_tablespaces(data_directory).get(oid, link)
    return islice(_first_pages(link, place), _SAMPLE_PAGES)


def _built_in_pages(data_directory: Path, oid: int) -> Iterator[tuple[FileIdentity, bytes]]:
    directories = "global" if oid == PG_GLOBAL_OID else "base/[1-9]*"
    for path in data_directory.glob(f"{directories}/[1-9]*"):
        # A database's directory that was moved out of the way is nobody's.
        of_server = path.parent.name.isdecimal() or oid == PG_GLOBAL_OID
        if not of_server or not path.name.isdecimal():
            continue
        page = read_beginning(path.parent, path.name, PAGE_SIZE)
        if len(page) == PAGE_SIZE and any(page):
            yield FileIdentity.from_path(path), page


def _first_pages(link: Path, place: Path) -> Iterator[tuple[FileIdentity, bytes]]:
    """Yield the pages that lie in a place now, by the names that the server knows."""
    for path in place.glob("PG_*/*/*"):
        try:
            identity = FileIdentity.from_path(link / path.relative_to(place))
        except IdentityError:
            continue
        page = read_beginning(path.parent, path.name, PAGE_SIZE)
        if len(page) == PAGE_SIZE and any(page):
            yield identity, page


def is_page_of(cipher: PageCipher, where: FileIdentity, page: bytes) -> bool:
    """Tell whether what is stored is a page under a key; by chance once in 2**40."""
    plain = cipher.decrypt_pages(page, identity=where.identity, first_block=where.first_block)
    fields: tuple[int, ...] = _HEADER.unpack_from(plain)
    _, flags, lower, upper, special, size = fields
    return (
        size == _SIZE_AND_VERSION
        and flags & ~_VALID_FLAGS == 0
        and _HEADER.size <= lower <= upper <= special <= PAGE_SIZE
    )
