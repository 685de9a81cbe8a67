"""The file system of a node: the host's /usr, /etc and /var under layers of the node's own.

It runs in a mount namespace of its own. What is written to the lower layers while a node is up is
undefined, so packages go into a layer of the lab, once, and the host's own stay as they are.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

OVERLAID = ("usr", "etc", "var")
_LINKS = ("bin", "sbin", "lib", "lib64", "lib32", "libx32")
_EMPTY = ("proc", "sys", "dev", "run", "tmp", "root", "home", "opt", "srv", "mnt", "work")
_DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
_PTMX = "newinstance,ptmxmode=0666,mode=620"


def mount(*arguments: object) -> None:
    """Run mount(8)."""
    subprocess.run(["mount", *map(str, arguments)], check=True)


def make_root(target: Path, upper: Path, layer: Path | None) -> None:
    """Build a root at TARGET, with what is written to it in UPPER.

    Args:
        layer: packages of the lab, between the host's files and the node's.
    """
    target.mkdir(parents=True, exist_ok=True)
    mount("-t", "tmpfs", "-o", "mode=755,size=16m", "tmpfs", target)
    for name in _LINKS:
        if Path("/", name).is_symlink():
            (target / name).symlink_to(Path("/", name).readlink())
    for name in OVERLAID:
        _overlay(target / name, upper / name, layer and layer / name / "up", Path("/", name))
    for name in _EMPTY:
        (target / name).mkdir(exist_ok=True)
    (target / "tmp").chmod(0o1777)
    mount("-t", "sysfs", "sysfs", target / "sys")
    _make_devices(target / "dev")
    mount("-t", "tmpfs", "-o", "mode=755,size=64m", "tmpfs", target / "run")
    (target / "run" / "lock").mkdir()
    (target / "run" / "lock").chmod(0o1777)


def bind(path: Path, root: Path, place: Path | None = None) -> None:
    """Show a directory of the host in a root, at the same place or another."""
    target = root / (place or path).relative_to("/")
    target.mkdir(parents=True, exist_ok=True)
    mount("--bind", path, target)


def _overlay(target: Path, upper: Path, layer: Path | None, host: Path) -> None:
    (upper / "up").mkdir(parents=True, exist_ok=True)
    # A kernel refuses a work directory with remains of another mount.
    shutil.rmtree(upper / "work", ignore_errors=True)
    (upper / "work").mkdir()
    target.mkdir()
    lower = str(host) if layer is None else f"{layer}:{host}"
    options = f"lowerdir={lower},upperdir={upper / 'up'},workdir={upper / 'work'}"
    mount("-t", "overlay", "overlay", "-o", options, target)


def _make_devices(directory: Path) -> None:
    mount("-t", "tmpfs", "-o", "mode=755,size=64k", "tmpfs", directory)
    for name in _DEVICES:
        (directory / name).touch()
        mount("--bind", Path("/dev", name), directory / name)
    (directory / "fd").symlink_to("/proc/self/fd")
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        (directory / name).symlink_to(f"/proc/self/fd/{number}")
    for name in ("shm", "pts", "mqueue"):
        (directory / name).mkdir()
    mount("-t", "devpts", "-o", _PTMX, "devpts", directory / "pts")
    (directory / "ptmx").symlink_to("pts/ptmx")
    mount("-t", "tmpfs", "-o", "mode=1777,size=1g", "tmpfs", directory / "shm")


def pivot(root: Path) -> None:
    """Make ROOT the root of this process, with /proc of its own pid namespace."""
    old = root / ".old"
    old.mkdir(exist_ok=True)
    os.chdir(root)
    subprocess.run(["pivot_root", ".", ".old"], check=True)
    os.chdir("/")
    mount("-t", "proc", "proc", "/proc")
    subprocess.run(["umount", "-l", "/.old"], check=True)
