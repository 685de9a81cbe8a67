"""The PostgreSQL installations that tests run on."""

from __future__ import annotations

import os
from functools import lru_cache

from tde.postgres import PostgresBinaries, list_binaries


@lru_cache
def installations() -> dict[int, PostgresBinaries]:
    """Return the first installation of each major version."""
    found: dict[int, PostgresBinaries] = {}
    for binaries in list_binaries():
        found.setdefault(binaries.major, binaries)
    return dict(sorted(found.items()))


def tested_installations() -> dict[int, PostgresBinaries]:
    """Return the installations that tests of each version run on.

    Those of the major versions in TESTED_SERVERS ("17 18"), where it is set. A distribution is
    tested with its own servers; those of the wheel are the same everywhere.
    """
    found = installations()
    wanted = [int(major) for major in os.environ.get("TESTED_SERVERS", "").split()] or list(found)
    return {major: found[major] for major in wanted if major in found}


def is_packaged(binaries: PostgresBinaries) -> bool:
    """Tell whether an installation came with a package of Debian's."""
    return str(binaries.bindir).startswith("/usr/lib/postgresql/")
