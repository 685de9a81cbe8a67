"""Checks of the PostgreSQL installation: can this server be encrypted at all?"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from tde.doctor.examined import Examined
from tde.errors import TdeError, UnsupportedServerError
from tde.machine.verdict import Outcome, ok, problem
from tde.postgres.server.build import require_supported_pages
from tde.postgres.server.interposer import INTERPOSER_NAME, find_interposer
from tde.postgres.server.os_user import OsUser, run_as
from tde.postgres.server.reachable import reachable_interposer
from tde.postgres.server.symbols import require_interposable


def check_installation(examined: Examined) -> Iterator[Outcome]:
    """Tell which PostgreSQL would be used."""
    try:
        binaries = examined.binaries
    except TdeError as error:
        yield problem(str(error), error.remedy)
        return
    yield ok(f"PostgreSQL {binaries.version_text} in {binaries.bindir}")


def check_file_calls(examined: Examined) -> Iterator[Outcome]:
    """Compare the file calls that the server's program imports with those that are handled."""
    program = examined.binaries.program("postgres")
    try:
        require_interposable(program, find_interposer())
    except UnsupportedServerError as error:
        yield problem(str(error), error.remedy)
    else:
        yield ok("every call by which the server reaches files is encrypted")


def check_page_sizes(examined: Examined) -> Iterator[Outcome]:
    """Tell whether the server was built with the page and segment sizes of the format."""
    try:
        require_supported_pages(examined.binaries, examined.os_user)
    except UnsupportedServerError as error:
        yield problem(str(error), error.remedy)
    else:
        yield ok("pages of 8 KiB, segments of 1 GiB")


def check_preload(examined: Examined) -> Iterator[Outcome]:
    """Ask the dynamic loader whether it would load the interposer into this server."""
    interposer = reachable_interposer(examined.os_user)
    loaded, complaints = _objects_of(examined, interposer)
    if str(interposer) in loaded:
        yield ok("the loader puts the interposer into the server")
        return
    reason = "; ".join(complaints) or "the loader ignores LD_PRELOAD for this program"
    yield problem(
        f"the interposer would not be loaded: {reason}",
        f"The loader ignores LD_PRELOAD for statically linked and setuid programs and for programs "
        f"with file capabilities (chmod ug-s, setcap -r {examined.binaries.program('postgres')}), "
        f"and for a library of another architecture or on a file system that is mounted noexec: "
        f"install tde where programs may run ({interposer}).",
    )


def _objects_of(examined: Examined, interposer: Path) -> tuple[list[str], list[str]]:
    return loaded_objects(examined.binaries.program("postgres"), examined.os_user, interposer)


def loaded_objects(
    program: Path, os_user: OsUser | None, interposer: Path
) -> tuple[list[str], list[str]]:
    """Return the libraries that the loader maps for a server, and its complaints.

    The loader lists them instead of starting the program, as ldd does; a program for which it
    ignores the environment prints its version.
    """
    environment = {
        **os.environ,
        "LC_ALL": "C",
        "LD_TRACE_LOADED_OBJECTS": "1",
        "LD_PRELOAD": str(interposer),
    }
    result = run_as(os_user, [program, "--version"], environment=environment)
    paths = [
        word
        for line in result.stdout.splitlines()
        for word in line.split(" => ")[-1].split()
        if word.startswith("/")
    ]
    complaints = [line for line in result.stderr.splitlines() if INTERPOSER_NAME in line]
    return paths, complaints
