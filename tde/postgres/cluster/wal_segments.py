"""Which key each WAL segment was written with: its first page tells it."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from tde import _core
from tde.errors import KeystoreError
from tde.page.codec import PAGE_SIZE, PageCipher
from tde.page.identity import FileIdentity, WalIdentity
from tde.postgres.cluster.page_ciphers import page_cipher
from tde.postgres.server.cluster_files import read_beginning

if TYPE_CHECKING:
    from tde.keystore import KeyOwner, Keystore

# XLogLongPageHeaderData: magic, flags, timeline, address, rest of a record, padding, system
# identifier, sizes of a segment and of a page.
_START = struct.Struct("=HHIQI4xQII")
_LONG_HEADER = 0x0002


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
        directory: pg_wal, or an archive, with what lies below it.

    Raises:
        KeystoreError: a key of WAL cannot be used.
        OSError: a directory or a segment cannot be read.
    """
    found: dict[KeyOwner, list[Path]] = {}
    with ExitStack() as stack:
        ciphers = {
            owner: stack.enter_context(_cipher(keystore, owner)) for owner in _wal_owners(keystore)
        }
        for file, identity in _segments(directory):
            try:
                page = read_beginning(file.parent, file.name, PAGE_SIZE)
            except FileNotFoundError:
                continue  # It was recycled since the directory was read.
            owner = _owner_of(page, identity, ciphers)
            if owner is not None:
                found.setdefault(owner, []).append(file)
    return found


def _wal_owners(keystore: Keystore) -> list[KeyOwner]:
    from tde.keystore import OwnerKind
    from tde.keystore.store.layout import list_owners

    kinds = (OwnerKind.WAL, OwnerKind.LATER_WAL)
    return [owner for owner in list_owners(keystore.path) if owner.kind in kinds]


def _cipher(keystore: Keystore, owner: KeyOwner) -> PageCipher:
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
