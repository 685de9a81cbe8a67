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


def elf_files(binaries: PostgresBinaries) -> list[Path]:
    found = [*binaries.bindir.iterdir(), *(binaries.bindir.parent / "lib").rglob("*.so*")]
    return [path for path in found if path.is_file() and path.read_bytes()[:4] == b"\x7fELF"]


def test_no_program_or_library_uses_a_call_that_is_not_handled(binaries: PostgresBinaries) -> None:
    libc = ctypes.CDLL("libc.so.6")
    files = elf_files(binaries)
    assert {"postgres", "pg_basebackup", "pg_rewind"} <= {path.name for path in files}
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
