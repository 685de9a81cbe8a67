"""Everything that the installed servers consist of reaches files only by calls that are handled.

A start looks at ``postgres`` alone; this looks at its tools, libraries and extensions as well, so
that a new release of PostgreSQL which uses another call is noticed here first.
"""

from __future__ import annotations

import ctypes
from fnmatch import fnmatch
from pathlib import Path

from tde.errors import UnsupportedServerError
from tde.postgres import PostgresBinaries
from tde.postgres.cluster.bin_directory import PROGRAMS_WITH_KEYS
from tde.postgres.server.interposer import find_interposer
from tde.postgres.server.symbols import unhandled_symbols

# Calls that no wrapper stands in front of, where they are used, and why that is harmless.
HARMLESS = {
    ("ioctl", "pg_upgrade"): "clones files of a stopped cluster as they are",
    ("ioctl", "pg_combinebackup"): "clones backed-up files as they are",
    ("ioctl", "psql"): "asks for the size of the terminal",
    ("ioctl", "libpq.so*"): "asks a socket how much there is to read",
    ("tmpfile", "pg_dump*"): "a client; what it dumps is plaintext by purpose",
    ("tmpfile", "pg_restore"): "a client; what it restores is plaintext by purpose",
}


# Programs of PostgreSQL that do not carry the words by which the others are known.
WITHOUT_VERSION = {"ecpg", "pg_config"}

# Programs that came with PostgreSQL 17, a name of postgres that not every build installs, and what
# others put beside them.
MAY_BE_ABSENT = {
    *("pg_checksums_ext", "pg_combinebackup", "pg_createsubscriber", "postmaster", "repmgr")
}

# PostgreSQL's own libraries, contrib's included: extensions of others lie in the same folder.
OWN_LIBRARIES = (
    # For clients, and what every server loads.
    *("libecpg*", "libpgtypes*", "libpq*", "llvmjit", "pgoutput", "dict_snowball", "*_and_*"),
    "cyrillic",
    *("euc2004_sjis2004", "plpgsql", "plperl", "plpython3", "pltcl"),
    # contrib
    *("_int", "adminpack", "amcheck", "auth_delay", "auto_explain", "autoinc", "basic_archive"),
    *("basebackup_to_shell", "bloom", "btree_gin", "btree_gist", "citext", "cube", "dblink"),
    *("dict_int", "dict_xsyn", "earthdistance", "file_fdw", "fuzzystrmatch", "hstore"),
    *("hstore_pl*", "insert_username", "isn", "jsonb_pl*", "lo", "ltree", "ltree_pl*"),
    *("moddatetime", "old_snapshot", "pageinspect", "passwordcheck", "pg_buffercache"),
    *("pg_freespacemap", "pg_logicalinspect", "pg_overexplain", "pg_plan_advice", "pg_prewarm"),
    *("pg_stash_advice", "pg_stat_statements", "pg_surgery", "pg_trgm", "pg_visibility"),
    *("pg_walinspect", "pgcrypto", "pgrowlocks", "pgstattuple", "pgxml", "postgres_fdw"),
    *("refint", "seg", "sepgsql", "sslinfo", "tablefunc", "tcn", "test_decoding"),
    *("tsm_system_rows", "tsm_system_time", "unaccent", "uuid-ossp"),
    # What REPACK (CONCURRENTLY) decodes WAL with.
    "pgrepack",
)


def own_files(binaries: PostgresBinaries) -> list[Path]:
    """Return PostgreSQL's own programs and libraries, and leave out what others put beside them.

    Nothing is asked of a package manager, which an installation made from source has none of.
    """
    words = f"(PostgreSQL) {binaries.major}".encode()  # "19.1", and "19rc1" before it.
    programs = [
        path
        for path in binaries.bindir.iterdir()
        if path.name in WITHOUT_VERSION or words in path.read_bytes()
    ]
    libraries = [
        path
        for path in (binaries.bindir.parent / "lib").rglob("*.so*")
        if any(fnmatch(path.name.split(".so")[0], name) for name in OWN_LIBRARIES)
    ]
    found = programs + libraries
    return [path for path in found if path.is_file() and path.read_bytes()[:4] == b"\x7fELF"]


def test_no_program_or_library_uses_a_call_that_is_not_handled(binaries: PostgresBinaries) -> None:
    libc = ctypes.CDLL("libc.so.6")
    files = own_files(binaries)
    names = {path.name.split(".so")[0] for path in files}
    assert {*PROGRAMS_WITH_KEYS, "psql"} - names <= MAY_BE_ABSENT
    assert {"pgoutput", "libpqwalreceiver", "plpgsql"} <= names
    problems = []
    for path in files:
        try:
            calls = unhandled_symbols(path, find_interposer())
        except UnsupportedServerError:  # A library without symbols calls nothing.
            continue
        problems += [
            f"{path.name}: {call}"
            for call in calls
            # PostgreSQL has functions of its own with such names.
            if hasattr(libc, call)
            and not any(call == known and fnmatch(path.name, name) for known, name in HARMLESS)
        ]
    assert problems == []
