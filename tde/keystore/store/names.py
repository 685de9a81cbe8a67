"""Whose key record a file of the keystore is, by its name."""

from __future__ import annotations

import re
from collections.abc import Collection
from uuid import UUID

from tde.keystore.store.record import KeyOwner

_NAMED_RECORD = re.compile(r"[0-9a-f]{32}\.key")
_LATER_WAL_RECORD = re.compile(r"wal\.([1-9][0-9]{0,9})\.([0-9a-f]{32})\.key")


def owner_of_file(name: str) -> KeyOwner | None:
    """Return whose key record a file in ``keys`` is by its name; ``None`` when it is none."""
    if _NAMED_RECORD.fullmatch(name):
        return KeyOwner.named(UUID(hex=name[:-4]))
    if _LATER_WAL_RECORD.fullmatch(name):
        return next(iter(_later_wal_owners([name])), None)
    if _is_tablespace_record(name):
        return KeyOwner.tablespace(int(name[:-4]))
    shared = (KeyOwner.wal(), KeyOwner.other_tablespaces())
    return next((owner for owner in shared if owner.file_name == name), None)


def owners_of_files(names: Collection[str]) -> list[KeyOwner]:
    """Return whose keys files are: of WAL, other tablespaces, tablespaces by OID, key ids.

    Later keys of the WAL follow the first, in the order in which they came. Other names are passed
    over.
    """
    oids = sorted(int(name[:-4]) for name in names if _is_tablespace_record(name))
    shared = [KeyOwner.wal(), *_later_wal_owners(names), KeyOwner.other_tablespaces()]
    present = [owner for owner in shared if owner.file_name in names]
    ids = sorted(name[:-4] for name in names if _NAMED_RECORD.fullmatch(name))
    return [
        *present,
        *(KeyOwner.tablespace(oid) for oid in oids),
        *(KeyOwner.named(UUID(hex=key_id)) for key_id in ids),
    ]


def _later_wal_owners(names: Collection[str]) -> list[KeyOwner]:
    found = (_LATER_WAL_RECORD.fullmatch(name) for name in names)
    parts = sorted((int(match[1]), match[2]) for match in found if match)
    return [
        KeyOwner.later_wal(number, UUID(hex=key_id))
        for number, key_id in parts
        if number in range(2, 1 << 32)
    ]


def _is_tablespace_record(name: str) -> bool:
    stem = name.removesuffix(".key")
    # The number must be written as tde writes it: 007.key is not the key of tablespace 7.
    return (
        name != stem
        and stem.isascii()
        and stem.isdigit()
        and stem == str(int(stem))
        and int(stem) in range(1, 1 << 32)
    )
