"""Registering a version, and taking it back, killed at any step, with an upgrade by dpkg after it.

Whatever was interrupted, the newest programs are PostgreSQL's own, and each name is always there.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tde.keystore.opening import open_unattended
from tde.postgres.service.diversion import divert_programs, undivert_programs
from tests.postgres.service.apart import (
    KEYSTORE,
    OLD_MAJOR,
    POSTMASTERS,
    PROGRAMS,
    enter_directories,
    needs_mounts,
    run,
    run_apart,
)

pytestmark = needs_mounts

STOCK = PROGRAMS.parent / "tde-stock"
SHIPPED = ("initdb", "pg_ctl")
NAMES = (*SHIPPED, "postgres", *POSTMASTERS)
CALLS = ("rename", "replace", "symlink", "link", "unlink", "mkdir", "rmdir")
KILLED = 77
EVERY = 11  # Steps; all of them take minutes.
PLACES = {"programs": PROGRAMS.parent, "dpkg": Path("/var/lib/dpkg"), "tde": Path("/var/lib/tde")}


def make_package(place: Path, version: int) -> Path:
    """A package whose programs say which version it was."""
    root = place / f"of-{version}"
    directory = root / str(PROGRAMS).lstrip("/")
    (root / "DEBIAN").mkdir(parents=True)
    directory.mkdir(parents=True)
    (root / "DEBIAN/control").write_text(
        f"Package: tde-test-programs\nVersion: {version}\nArchitecture: all\n"
        "Maintainer: nobody <nobody@localhost>\nDescription: programs\n"
    )
    for name in SHIPPED:
        (directory / name).write_bytes((PROGRAMS / name).read_bytes() + b"%d" % version)
        (directory / name).chmod(0o755)
    run("dpkg-deb", "-b", root, place / f"{version}.deb")
    return place / f"{version}.deb"


def install(package: Path) -> None:
    run("dpkg", "-i", "--force-all", package)


def copied(source: Path, target: Path) -> None:
    for entry in target.iterdir():
        shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
    subprocess.run(["cp", "-a", f"{source}/.", target], check=True)


def killed(step: int, work: Callable[[], object]) -> bool:
    """Do the work in a process that dies before so many steps; tell whether it did."""
    child = os.fork()
    if child == 0:
        steps = 0

        def counted(real: Callable[..., Any]) -> Callable[..., Any]:
            def call(*words: Any, **more: Any) -> Any:
                nonlocal steps
                steps += 1
                if steps == step:
                    os._exit(KILLED)
                return real(*words, **more)

            return call

        for name in CALLS:
            setattr(os, name, counted(getattr(os, name)))
        subprocess.run = counted(subprocess.run)  # type: ignore[assignment]
        try:
            work()
        except BaseException:
            os._exit(1)
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, KILLED)
    return code == KILLED


def register() -> None:
    with open_unattended(KEYSTORE) as keystore:
        divert_programs(OLD_MAJOR, keystore)


def unregister() -> None:
    undivert_programs(OLD_MAJOR)


def interrupted(place: Path, verb: str) -> None:
    enter_directories(place)
    by_fd = ("--passphrase-fd", 0)
    run("tde", "keystore", "create", "-k", KEYSTORE, *by_fd)
    run("tde", "keystore", "auto-open", "enable", "-k", KEYSTORE, *by_fd)
    first, second = make_package(place, 1), make_package(place, 2)
    install(first)
    run("tde", "pg", "register", OLD_MAJOR, "-k", KEYSTORE, *by_fd)
    work, newest = (unregister, PROGRAMS) if verb == "unregister" else (register, STOCK)
    if verb == "register":
        unregister()
    for name, directory in PLACES.items():
        (place / "before" / name).mkdir(parents=True)
        copied(directory, place / "before" / name)
    step = 1
    while killed(step, work):
        assert all((PROGRAMS / name).exists() for name in NAMES), step
        install(second)
        assert all((PROGRAMS / name).exists() for name in NAMES), step
        work()
        content = {name: (newest / name).read_bytes()[-1:] for name in SHIPPED}
        assert content == dict.fromkeys(SHIPPED, b"2"), step
        assert all((PROGRAMS / name).exists() for name in NAMES), step
        if verb == "unregister":
            for name in POSTMASTERS:
                assert (PROGRAMS / name).readlink() == Path("postgres")
            assert "tde" not in Path("/var/lib/dpkg/diversions").read_text()
        for name, directory in PLACES.items():
            copied(place / "before" / name, directory)
        step += EVERY
    assert step > 2 * EVERY


@pytest.mark.parametrize("verb", ["register", "unregister"])
def test_the_newest_program_stays_whatever_was_interrupted(tmp_path: Path, verb: str) -> None:
    run_apart(interrupted, tmp_path, verb)


def beside_dpkg(place: Path) -> None:
    """Nothing is exchanged while packages are being installed."""
    enter_directories(place)
    by_fd = ("--passphrase-fd", 0)
    run("tde", "keystore", "create", "-k", KEYSTORE, *by_fd)
    run("tde", "keystore", "auto-open", "enable", "-k", KEYSTORE, *by_fd)
    holder = (
        "import fcntl, sys; f = open('/var/lib/dpkg/lock-frontend', 'ab'); "
        "fcntl.lockf(f, fcntl.LOCK_EX); print(flush=True); sys.stdin.read()"
    )
    register = ("tde", "pg", "register", OLD_MAJOR, "-k", KEYSTORE, *by_fd)
    with subprocess.Popen(
        ["python3", "-c", holder], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert "packages are being installed" in run(*register, exit_code=1)
        assert not (PROGRAMS / "postgres").is_symlink()
        process.communicate(b"")
    run(*register)
    assert (PROGRAMS / "postgres").is_symlink()


def test_packages_are_not_installed_meanwhile(tmp_path: Path) -> None:
    run_apart(beside_dpkg, tmp_path)
