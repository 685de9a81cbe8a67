"""Which key each WAL segment was written with: its first page tells it."""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from tde import _core
from tde.errors import KeystoreError
from tde.page.codec import PAGE_SIZE, PageCipher
from tde.page.identity import FileIdentity, WalIdentity
from tde.postgres.cluster.links import directory_id
from tde.postgres.cluster.page_ciphers import page_cipher
from tde.postgres.server.cluster_files import read_beginning

if TYPE_CHECKING:
    from tde.keystore import KeyOwner, Keystore

# XLogLongPageHeaderData: magic, flags, timeline, address, rest of a record, padding, system
# identifier, sizes of a segment and of a page.
_START = struct.Struct("=HHIQI4xQII")
_LONG_HEADER = 0x0002
_SEGMENT_NAME = re.compile(r"[0-9A-Fa-f]{24}")
_BACKUP_HISTORY = b"START WAL LOCATION: "


def begins_segment(page: bytes, identity: WalIdentity) -> bool:
    """Tell whether a page in plaintext is the first one of a segment.

    Over 100 bits are compared, as in C (c_ext/format/page.c).
    """
    _, info, _, address, _, _, segment_bytes, page_bytes = _START.unpack_from(page)
    return (
        bool(info & _LONG_HEADER)
        and page_bytes == PAGE_SIZE
        and segment_bytes in (1 << power for power in range(20, 31))
        and address == (identity.log << 32) + identity.segment * segment_bytes
    )


def segments_by_key(directory: Path, keystore: Keystore) -> dict[KeyOwner, list[Path]]:
    """Return the WAL segments in a directory by the key of the keystore that they have.

    One that fits no key is left out: it was prepared and not written yet, its key is not in the
    keystore, or it is compressed.

    Args:
        directory: pg_wal, with what lies below it.

    Raises:
        KeystoreError: a key of WAL cannot be used.
        OSError: a directory or a segment cannot be read.
    """
    found: dict[KeyOwner, list[Path]] = {}
    with _ciphers(keystore) as ciphers:
        for file, identity in _segments(directory):
            try:
                page = read_beginning(file.parent, file.name, PAGE_SIZE)
            except FileNotFoundError:
                continue  # It was recycled since the directory was read.
            owner = _owner_of(page, identity, ciphers)
            if owner is not None:
                found.setdefault(owner, []).append(file)
    return found


class ArchiveLook(NamedTuple):
    """What a look at an archive of WAL has found.

    Attributes:
        by_key: segments, by the key of the keystore that they have.
        untold: files that are named as segments and tell no key.
        number: of all files that are named as segments.
    """

    by_key: dict[KeyOwner, list[Path]]
    untold: list[Path]
    number: int


def look_at_archive(
    archive: Path, keystore: Keystore, others: Mapping[KeyOwner, PageCipher]
) -> ArchiveLook:
    """Look at the first page of each segment of an archive.

    A program that keeps archives gives segments other names, which begin with that of the segment,
    and may compress or encrypt them. What is not encrypted by tde needs no key.

    Args:
        others: of keys to look for besides, whose records have lost their names.

    Raises:
        DataDirectoryError: a file is a link, or no regular file.
        KeystoreError: a key of WAL cannot be used.
        OSError: a directory or a file cannot be read.
    """
    found: dict[KeyOwner, list[Path]] = {}
    untold: list[Path] = []
    number = 0
    with _ciphers(keystore) as of_keystore:
        ciphers = {**of_keystore, **others}
        for file in _files_of_archive(archive):
            name = _SEGMENT_NAME.match(file.name)
            if name is None:
                continue
            identity = FileIdentity.from_path(name.group().upper()).identity
            page = read_beginning(file.parent, file.name, PAGE_SIZE)
            if page.startswith(_BACKUP_HISTORY):
                continue
            number += 1
            if not isinstance(identity, WalIdentity) or len(page) < PAGE_SIZE:
                untold.append(file)
                continue
            owner = _owner_of(page, identity, ciphers)
            if owner is not None:
                found.setdefault(owner, []).append(file)
            elif not begins_segment(page, identity):
                untold.append(file)
    return ArchiveLook(found, untold, number)


def _files_of_archive(archive: Path) -> Iterator[Path]:
    """Yield all files below a directory, also behind links; each directory once."""

    def refuse(error: OSError) -> None:
        raise error

    seen = set()
    for parent, below, names in os.walk(archive, followlinks=True, onerror=refuse):
        identity = directory_id(Path(parent).stat())
        if identity in seen:
            below.clear()
            continue
        seen.add(identity)
        below.sort()
        yield from (Path(parent, name) for name in sorted(names))


@contextmanager
def _ciphers(keystore: Keystore) -> Iterator[dict[KeyOwner, PageCipher]]:
    with ExitStack() as stack:
        yield {
            owner: stack.enter_context(cipher_of_wal(keystore, owner))
            for owner in _wal_owners(keystore)
        }


def _wal_owners(keystore: Keystore) -> list[KeyOwner]:
    from tde.keystore import OwnerKind
    from tde.keystore.store.reading import list_owners

    kinds = (OwnerKind.WAL, OwnerKind.LATER_WAL)
    return [owner for owner in list_owners(keystore.path) if owner.kind in kinds]


def cipher_of_wal(keystore: Keystore, owner: KeyOwner) -> PageCipher:
    """Return the cipher of a key of WAL, which the caller closes.

    Raises:
        KeystoreError: the key cannot be used.
    """
    found = keystore.key_of(owner)
    if found is None:
        raise KeystoreError(f"{owner} cannot have a plaintext entry")
    return page_cipher(found)


def _segments(directory: Path) -> Iterator[tuple[Path, WalIdentity]]:
    for file in sorted(directory.rglob("*")):
        if _core.parse_path(file.name)[0] != _core.CLASS_WAL or not file.is_file():
            continue
        identity = FileIdentity.from_path(file.name).identity
        if isinstance(identity, WalIdentity):
            yield file, identity


def _owner_of(
    page: bytes, identity: WalIdentity, ciphers: Mapping[KeyOwner, PageCipher]
) -> KeyOwner | None:
    if len(page) < PAGE_SIZE:
        return None
    for owner, cipher in ciphers.items():
        if begins_segment(cipher.decrypt_pages(page, identity=identity), identity):
            return owner
    return None
