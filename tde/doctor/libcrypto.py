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
from tde.postgres.server.os_user import OsUser
from tde.postgres.server.published import read_published_status
from tde.postgres.server.reachable import reachable_interposer, reachable_libcrypto

_VERSION = re.compile(rb"OpenSSL (\d+)\.\d+\.\d+[^\0]{0,40}\d{4}\0")
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
    library = libcrypto_of_server(examined.pid, examined.binaries, examined.os_user)
    if library is None:
        yield unknown(
            "the libcrypto that the server loads was not found", "See the line Interposer."
        )
        return
    match = _VERSION.search(library.read_bytes())
    if match is None:
        yield unknown(f"{library} does not tell its version", "Look at the package it is from.")
        return
    version = match[0].rstrip(b"\0").decode(errors="replace")
    runs = examined.pid is not None and examined.is_encrypted
    who = "the server encrypts with" if runs else "a server would encrypt with"
    yield _version_outcome(who, version if version in known else f"{version} ({library})")


def libcrypto_of_server(
    pid: int | None, binaries: PostgresBinaries, os_user: OsUser | None
) -> Path | None:
    """Return the libcrypto with which a server encrypts pages, or would if it were started now."""
    published = None if pid is None else read_published_status(pid)
    if published is not None and published.libcrypto:
        used = Path(published.libcrypto)
        return used if used.is_file() else None
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
