"""Which libcrypto a running server encrypts pages with, as the server itself tells."""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tde.postgres.server.published import read_published_status

_VERSION = re.compile(rb"OpenSSL \d+\.\d+\.\d+[^\0]{0,40}\d{4}\0")


@dataclass(frozen=True)
class LibraryInUse:
    """A libcrypto that a process has loaded.

    Attributes:
        path: from where. The file may have been replaced or removed since.
        version: for example ``OpenSSL 3.5.8 25 Aug 2026``; empty when nobody can tell.
    """

    path: Path
    version: str


def library_in_use(pid: int) -> LibraryInUse | None:
    """Return the library that encrypts in a server; ``None`` when the server tells of none.

    Args:
        pid: of its postmaster.

    Raises:
        OSError: the server tells something, and it may not be read.
    """
    published = read_published_status(pid)
    if published is None or not published.libcrypto:
        return None
    path = Path(published.libcrypto)
    version = published.libcrypto_version
    if not version:
        # Servers that earlier releases have started name only the file.
        with suppress(OSError):
            version = version_in(path)
    return LibraryInUse(path, version)


def version_in(library: Path) -> str:
    """Return what a file of OpenSSL says of its version, without loading it; empty if nothing.

    Raises:
        OSError: it may not be read.
    """
    found = _VERSION.search(library.read_bytes()) if library.is_file() else None
    return "" if found is None else found[0].rstrip(b"\0").decode(errors="replace")
