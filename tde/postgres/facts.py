"""Facts about PostgreSQL that several modules rely on, by major version where it matters.

They were read in PostgreSQL's source. What one module alone knows (the layout of a page's header,
say) stands there. ``tde.page.reference`` has constants of its own on purpose: it checks these.
"""

from __future__ import annotations

from tde.page.codec import PAGE_SIZE

SUPPORTED_MAJOR_VERSIONS = (15, 16, 17, 18)

PAGE_BYTES = PAGE_SIZE
"""BLCKSZ, which the format fixes; no other build can be encrypted."""

SEGMENT_PAGES = 131072
"""RELSEG_SIZE: 1 GiB of 8 KiB pages, what every packaged PostgreSQL uses."""

WAL_PAGE_MAGIC = {15: 0xD110, 16: 0xD113, 17: 0xD116, 18: 0xD118}
"""XLOG_PAGE_MAGIC (xlog_internal.h) of each major version."""

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
