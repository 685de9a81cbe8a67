"""Builds of PostgreSQL that encryption is written for."""

from __future__ import annotations

from tde.errors import UnsupportedServerError
from tde.postgres.facts import PAGE_BYTES, SEGMENT_PAGES
from tde.postgres.server.binaries import PostgresBinaries
from tde.postgres.server.interposer import find_interposer
from tde.postgres.server.os_user import OsUser
from tde.postgres.server.settings import build_setting


def require_supported_build(binaries: PostgresBinaries, os_user: OsUser | None) -> None:
    """Refuse a server that encryption is not written for.

    Raises:
        UnsupportedServerError: it has other page or segment sizes, with the sizes found, or does
            file I/O that the interposer would not see.
        InterposerError: the interposer was not built.
    """
    # Not at the top: reading ELF files takes a library that most commands never need.
    from tde.postgres.server.symbols import require_interposable

    require_interposable(binaries.program("postgres"), find_interposer())
    require_supported_pages(binaries, os_user)


def require_supported_pages(binaries: PostgresBinaries, os_user: OsUser | None) -> None:
    """Refuse a server whose files have another geometry than the format.

    Raises:
        UnsupportedServerError: it has other page or segment sizes, with the sizes found.
    """
    page_bytes = int(build_setting("block_size", binaries, os_user))
    # postgres -C prints this setting in pages, without a unit, in all of 15 to 19.
    segment_pages = int(build_setting("segment_size", binaries, os_user))
    if (page_bytes, segment_pages) != (PAGE_BYTES, SEGMENT_PAGES):
        raise UnsupportedServerError(
            f"the server in {binaries.bindir} was built with pages of {page_bytes} bytes and "
            f"segments of {segment_pages} pages",
            remedy=f"Use a build with the defaults: {PAGE_BYTES} bytes, {SEGMENT_PAGES} pages.",
        )
