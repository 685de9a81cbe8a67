"""Checks of OpenSSL: which encrypts pages, in tde and in the server, and how fast."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from pathlib import Path

from tde import _core
from tde.algorithms import Algorithm
from tde.doctor.examined import Examined
from tde.doctor.programs import loaded_objects
from tde.machine.verdict import Outcome, ok, unknown, warning
from tde.page.codec import PAGE_SIZE, PageCipher
from tde.page.identity import RelationIdentity
from tde.page.libcrypto import SYSTEM, VARIABLE, choose_libcrypto, find_libcrypto
from tde.postgres.server.binaries import PostgresBinaries
from tde.postgres.server.library_in_use import LibraryInUse, library_in_use, version_in
from tde.postgres.server.os_user import OsUser
from tde.postgres.server.reachable import reachable_interposer, reachable_libcrypto

_OLDEST_OPENSSL = 3
_PAGES = 128
_ROUNDS = 20


def check_openssl(examined: Examined) -> Iterator[Outcome]:
    """Tell which OpenSSL tde and the server use, and how fast pages are encrypted."""
    choose_libcrypto()
    own, pages = _core.linked_openssl_version(), _core.openssl_version()
    yield _version_outcome("tde uses", own)
    speed = f"{_gigabytes_per_second():.1f} GB/s with AES-256"
    if pages != own:
        yield ok(f"pages are encrypted by {pages} ({find_libcrypto()}), {speed}")
    elif _core.libcrypto_would_gain() and os.environ.get(VARIABLE) != SYSTEM:
        yield ok(f"{speed}; OpenSSL 3.5 would be faster here: pip install psycopg2-binary")
    else:
        yield ok(speed)
    yield from _of_server(examined, {own, pages})


def _of_server(examined: Examined, known: set[str]) -> Iterator[Outcome]:
    used = None if examined.pid is None else library_in_use(examined.pid)
    who = "the server encrypts with"
    if used is None:
        used = _library_of_start(examined.binaries, examined.os_user)
        who = "a server would encrypt with"
    if used is None:
        yield unknown(
            "the libcrypto that the server loads was not found", "See the line Interposer."
        )
        return
    library, version = used.path, used.version
    if not version:
        yield unknown(f"{library} does not tell its version", "Look at the package it is from.")
        return
    yield _version_outcome(who, version if version in known else f"{version} ({library})")


def _library_of_start(binaries: PostgresBinaries, os_user: OsUser | None) -> LibraryInUse | None:
    path = libcrypto_of_start(binaries, os_user)
    return None if path is None else LibraryInUse(path, version_in(path))


def libcrypto_of_start(binaries: PostgresBinaries, os_user: OsUser | None) -> Path | None:
    """Return the libcrypto with which a server would encrypt pages if it were started now."""
    # What the variable names the server takes from there; all else is brought to it.
    wanted = find_libcrypto() if os.environ.get(VARIABLE) else reachable_libcrypto(os_user)
    if wanted is not None and wanted.is_file():
        return wanted
    interposer = reachable_interposer(os_user)
    paths, _ = loaded_objects(binaries.program("postgres"), os_user, interposer)
    linked = (path for path in map(Path, paths) if path.name.startswith("libcrypto"))
    return next((path for path in linked if path.is_file()), None)


def _version_outcome(who_uses: str, version: str) -> Outcome:
    match = re.match(r"OpenSSL (\d+)\.", version)
    if match is None:
        return unknown(f"{who_uses} {version}", "Use OpenSSL 3.")
    if int(match[1]) < _OLDEST_OPENSSL:
        return warning(f"{who_uses} {version}", "Install OpenSSL 3 and reinstall tde.")
    return ok(f"{who_uses} {version}")


def _gigabytes_per_second() -> float:
    """Return how fast this machine encrypts pages on one processor: the best of a few rounds."""
    pages = bytearray(os.urandom(PAGE_SIZE) * _PAGES)
    fork = RelationIdentity(1, 1)
    best = float("inf")
    with PageCipher(os.urandom(64), Algorithm.AES256) as cipher:
        for _ in range(_ROUNDS):
            begun = time.perf_counter()
            cipher.encrypt_pages(pages, pages, identity=fork)
            best = min(best, time.perf_counter() - begun)
    return len(pages) / best / 1e9
