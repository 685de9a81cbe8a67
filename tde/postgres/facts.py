"""Facts about PostgreSQL that several modules rely on, by major version where it matters.

They were read in PostgreSQL's source. What one module alone knows (the layout of a page's header,
say) stands there. ``tde.page.reference`` has constants of its own on purpose: it checks these.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tde.page.codec import PAGE_SIZE


@dataclass(frozen=True)
class MajorVersion:
    """What differs between major versions, as far as tde relies on it.

    C has two tables more, which are compiled in: the end of pg_control (c_ext/format/control.c,
    by the version in that file), and the headers of the extension (c_ext/extension/compat.h).

    Attributes:
        wal_page_magic: XLOG_PAGE_MAGIC (xlog_internal.h).
        settings: those that tde looks at and that 15 lacks.
    """

    wal_page_magic: int
    settings: frozenset[str] = frozenset()


# How the server reads, which may bypass libc; where it looks for extensions.
_SINCE_18 = frozenset({"io_method", "extension_control_path"})
# Raw parse trees in the log, with their values; the file whose lines run commands.
_SINCE_19 = _SINCE_18 | {"debug_print_raw_parse", "hosts_file"}


MAJOR_VERSIONS: Mapping[int, MajorVersion] = {
    15: MajorVersion(0xD110),
    16: MajorVersion(0xD113),
    17: MajorVersion(0xD116),
    18: MajorVersion(0xD118, _SINCE_18),
    19: MajorVersion(0xD122, _SINCE_19),
}
"""The major versions that tde supports, oldest first; a new one begins with its line here."""

SUPPORTED_MAJOR_VERSIONS = tuple(MAJOR_VERSIONS)

PAGE_BYTES = PAGE_SIZE
"""BLCKSZ, which the format fixes; no other build can be encrypted."""

SEGMENT_PAGES = 131072
"""RELSEG_SIZE: 1 GiB of 8 KiB pages, what every packaged PostgreSQL uses."""

PG_DEFAULT_OID = 1663
PG_GLOBAL_OID = 1664
BUILT_IN_TABLESPACES = {PG_DEFAULT_OID: "pg_default", PG_GLOBAL_OID: "pg_global"}
"""The tablespaces that every cluster has, which lie in the data directory (pg_tablespace.dat)."""

TABLESPACE_CATALOG_OID = 1213
"""TableSpaceRelationId: the catalog pg_tablespace."""

FIRST_NORMAL_OID = 16384
"""FirstNormalObjectId (transam.h): smaller relfilenumbers are those of initdb's catalogs."""

CHECKSUM_BYTES = slice(8, 10)
"""Where a page has pd_checksum (bufpage.h), in the byte order of the machine."""

CONTROL_FILE = "global/pg_control"

CONTROL_CATALOG_VERSION = slice(12, 16)
"""Where pg_control has catalog_version_no, behind the system identifier (8 bytes) and its own
version (4 bytes), in the byte order of the machine; the same in all major versions."""

CONTROL_SECTOR_BYTES = 512
"""PG_CONTROL_MAX_SAFE_SIZE: what pg_control keeps its data within."""

CLEAN_STATES = ("shut down", "shut down in recovery")
"""The states that pg_controldata prints for a cluster that was stopped cleanly."""
