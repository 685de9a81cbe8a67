"""Finding tablespaces by name in a cluster that does not run."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from tde.convert.blocks import invalid_pages
from tde.errors import ConversionError
from tde.page.codec import PAGE_SIZE, PageCipher
from tde.page.identity import FileIdentity
from tde.postgres.cluster.links import tablespace_oids
from tde.postgres.facts import BUILT_IN_TABLESPACES, TABLESPACE_CATALOG_OID
from tde.postgres.server.cluster_files import read_cluster_file

_MAP_MAGIC = 0x592717  # relmapper.c
_NAME_BYTES = 64
_LONGEST_CATALOG = 1 << 30  # Bytes of a segment.
_LINE_POINTER = struct.Struct("=I")
_LP_NORMAL = 1


def resolve_tablespaces(
    data_directory: Path, wanted: Iterable[str], cipher: PageCipher | None = None
) -> list[int]:
    """Return the OIDs of tablespaces that are given by name or OID.

    Args:
        cipher: that of pg_global, where the names stand, when it is encrypted.

    Raises:
        ConversionError: there is no such tablespace, the name is not unique, or pg_tablespace
            cannot be read, for example because it is encrypted.
    """
    names: dict[str, set[int]] = {name: {oid} for oid, name in BUILT_IN_TABLESPACES.items()}
    wanted = list(wanted)
    if not all(_is_oid(name) or name in names for name in wanted):
        for oid, name in _catalog_names(data_directory, cipher):
            names.setdefault(name, set()).add(oid)
    found: list[int] = []
    for name in wanted:
        oids = {int(name)} if _is_oid(name) else names.get(name, set())
        if len(oids) != 1:
            known = ", ".join(f"{oid} ({name})" for name, all_ in names.items() for oid in all_)
            raise ConversionError(
                f'there is {"no" if not oids else "more than one"} tablespace "{name}"',
                remedy=f"Name it by its OID. Tablespaces: {known}",
            )
        found += oids
    return found


def known_tablespaces(known: Mapping[str, int], wanted: Iterable[str]) -> list[int] | None:
    """Return the OIDs of tablespaces while pg_tablespace may be encrypted already.

    Args:
        known: the names that were looked up before, with their OIDs.

    Returns:
        None when there is a name that was not looked up.
    """
    names = {**{name: oid for oid, name in BUILT_IN_TABLESPACES.items()}, **known}
    found = [int(name) if _is_oid(name) else names.get(name) for name in wanted]
    oids = [oid for oid in found if oid is not None]
    return oids if len(oids) == len(found) else None


def _is_oid(name: str) -> bool:
    return name.isascii() and name.isdigit()


def _catalog_names(data_directory: Path, cipher: PageCipher | None) -> Iterator[tuple[int, str]]:
    """Yield OIDs and names of the user-made tablespaces, earlier names included.

    Rows are not checked for visibility: whatever name a tablespace has had is its own, unless
    two have had the same one, which the caller refuses. Dropped ones are not in pg_tblspc.
    """
    present = set(tablespace_oids(data_directory))
    name = f"global/{_catalog_file(data_directory)}"
    data = read_cluster_file(data_directory, name, _LONGEST_CATALOG)
    if cipher is not None and len(data) % PAGE_SIZE == 0:
        data = cipher.decrypt_pages(data, identity=FileIdentity.from_path(name).identity)
    if len(data) % PAGE_SIZE or invalid_pages(memoryview(data)):
        raise _unreadable(data_directory / name)
    for start in range(0, len(data), PAGE_SIZE):
        for row in _rows(data[start : start + PAGE_SIZE], data_directory / name):
            if len(row) < 4 + _NAME_BYTES:
                continue
            oid = int.from_bytes(row[:4], "little")
            if oid in present:
                yield oid, row[4 : 4 + _NAME_BYTES].split(b"\0")[0].decode(errors="replace")


def _catalog_file(data_directory: Path) -> int:
    """Return the relfilenumber of pg_tablespace from global/pg_filenode.map."""
    data = read_cluster_file(data_directory, "global/pg_filenode.map")
    header, pairs = data[:8], data[8 : len(data) // 8 * 8]
    if len(header) < 8:
        raise _unreadable(data_directory / "global/pg_filenode.map")
    magic, count = struct.unpack("=ii", header)
    if magic == _MAP_MAGIC:
        for oid, number in list(struct.iter_unpack("=II", pairs))[: max(count, 0)]:
            if oid == TABLESPACE_CATALOG_OID:
                return int(number)
    return TABLESPACE_CATALOG_OID


def _rows(page: bytes, path: Path) -> Iterator[bytes]:
    """Yield the data of every row on a heap page (bufpage.h, htup_details.h).

    Raises:
        ConversionError: a row lies outside of the page.
    """
    lower = int.from_bytes(page[12:14], "little")
    for position in range(24, min(lower, PAGE_SIZE) - 3, 4):
        (pointer,) = _LINE_POINTER.unpack_from(page, position)
        offset, flags, length = pointer & 0x7FFF, pointer >> 15 & 3, pointer >> 17
        if flags == _LP_NORMAL and length > 23:
            if offset + length > PAGE_SIZE:
                raise _unreadable(path)
            header = page[offset + 22]  # t_hoff: where the columns begin.
            yield page[offset + header : offset + length]


def _unreadable(path: Path) -> ConversionError:
    return ConversionError(
        f"the names of the tablespaces cannot be read: {path} does not have its plain form",
        remedy="It is encrypted or damaged. Name tablespaces by their OIDs: those are the names of "
        "the links in pg_tblspc; 1663 is pg_default, 1664 pg_global.",
    )
