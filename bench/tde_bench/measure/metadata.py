"""Facts of the machine, the software and the moment, for a reader of results."""

from __future__ import annotations

import contextlib
import datetime
import importlib.metadata
import os
import platform
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from tde.postgres.server.library_in_use import library_in_use, version_in
from tde_bench.measure.libraries import used_library

# Filesystems in memory: I/O there costs nothing, so encryption looks more expensive than it is.
MEMORY_FILESYSTEMS = frozenset({"tmpfs", "ramfs"})


@dataclass(frozen=True)
class Filesystem:
    """The mounted filesystem that holds a path."""

    type: str
    device: str
    mount_point: str
    options: str

    @property
    def in_memory(self) -> bool:
        """Tell whether its files live in memory only."""
        return self.type in MEMORY_FILESYSTEMS


def filesystem_of(path: Path) -> Filesystem:
    """Return the filesystem that holds ``path``, which must exist."""
    target = path.resolve()
    candidates = [
        partition
        for partition in psutil.disk_partitions(all=True)
        if target.is_relative_to(partition.mountpoint)
    ]
    if not candidates:
        return Filesystem("unknown", "unknown", "unknown", "")
    # The longest mount point holds the path; of several mounts there, the last one covers the rest.
    depth = max(len(partition.mountpoint) for partition in candidates)
    mount = [partition for partition in candidates if len(partition.mountpoint) == depth][-1]
    return Filesystem(mount.fstype, mount.device, mount.mountpoint, mount.opts)


def collect(directory: Path | None) -> dict[str, Any]:
    """Return the metadata of a run whose servers live in ``directory`` (None: elsewhere)."""
    load = psutil.getloadavg()
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "cpu": cpu(),
        "memory_bytes": psutil.virtual_memory().total,
        "kernel": f"{platform.system()} {platform.release()}",
        "filesystem": None if directory is None else vars(filesystem_of(directory)),
        "openssl": openssl_version(None),
        "python": platform.python_version(),
        "tde": tde_version(),
        "commit": source_commit(),
        "load_average": list(load),
    }


def cpu(cpuinfo: Path = Path("/proc/cpuinfo")) -> dict[str, Any]:
    """Return model, number of CPUs, and whether they have AES instructions.

    ``flags`` holds those that decide how OpenSSL encrypts: the AES instructions, their vector form,
    and the vector registers.
    """
    text = cpuinfo.read_text(encoding="utf-8", errors="replace")
    model = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    # x86 calls the list "flags", ARM calls it "Features"; both name the extension "aes".
    found = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", text, re.MULTILINE)
    flags = set(found[1].split()) if found else set()
    relevant = {"aes", "vaes", "pclmulqdq", "vpclmulqdq", "avx", "avx2", "avx512f"}
    relevant |= {"asimd", "pmull", "sha3", "sve", "sve2", "sveaes"}
    return {
        "model": model[1] if model else _model_by_number(text),
        "count": os.cpu_count(),
        "aes_instructions": "aes" in flags,
        "flags": sorted(flags & relevant),
    }


def _model_by_number(text: str) -> str:
    """Return what 64-bit ARM tells of its model: the numbers of its maker and of the part."""
    found = dict(re.findall(r"^CPU (implementer|part)\s*:\s*(\S+)$", text, re.MULTILINE))
    numbers = ", ".join(f"{name} {number}" for name, number in sorted(found.items()))
    machine = platform.processor() or platform.machine()
    return f"{machine} ({numbers})" if numbers else machine


def openssl_version(server_pid: int | None) -> str:
    """Return the version of the libcrypto that a server has mapped.

    That is the library that encrypts. When there is no server or it has mapped none, the answer is
    that of the page core. No library is loaded for that: its file is what the server's user says.
    """
    if server_pid is not None:
        with contextlib.suppress(OSError):
            if (used := library_in_use(server_pid)) is not None:
                return used.version or f"unknown ({used.path})"
        try:
            maps = Path(f"/proc/{server_pid}/maps").read_text(encoding="utf-8")
        except OSError:
            maps = ""
        if match := re.search(r"(/\S*libcrypto[^/\s]*)$", maps, re.MULTILINE):
            return _library_version(match[1])
    return used_library().version


def _library_version(path: str) -> str:
    """Return the version text in a libcrypto."""
    with contextlib.suppress(OSError):
        if version := version_in(Path(path)):
            return version
    return f"unknown ({path})"


def tde_version() -> str:
    """Return the version of the installed product, or "not installed" in a bare checkout."""
    try:
        return importlib.metadata.version("tde")
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def source_commit() -> str | None:
    """Return the commit of the checkout this runs from, with "+" when files were changed."""
    folder = Path(__file__).parent
    try:
        commit = _git(folder, "rev-parse", "HEAD")
        changed = _git(folder, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit + ("+" if changed else "")


def _git(folder: Path, *arguments: str) -> str:
    """Run git in ``folder`` and return what it prints."""
    completed = subprocess.run(
        ["git", *arguments], cwd=folder, capture_output=True, text=True, check=True
    )
    return completed.stdout.strip()
