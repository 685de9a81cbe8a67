"""Mounts the recorder over a directory, so that what a scenario does there is written down."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

SOURCES = sorted(Path(__file__).with_name("recorder").glob("*.c"))
NOTES = ".notes"
_CAP_SYS_ADMIN = 1 << 21  # linux/capability.h


class RecorderError(Exception):
    """The file system cannot be built or mounted here."""


def why_unavailable() -> str | None:
    """Return what is missing on this machine for a recording, or None."""
    if not Path("/dev/fuse").exists():
        return "/dev/fuse is missing (in a container: --device /dev/fuse --cap-add SYS_ADMIN)"
    try:
        os.close(os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        return f"/dev/fuse cannot be opened: {error.strerror}"
    if os.geteuid() == 0 and not _may_mount():
        return "this root may not mount (in a container: --cap-add SYS_ADMIN)"
    if shutil.which(_compiler()[0]) is None:
        return "there is no C compiler"
    if not Path("/usr/include/fuse3/fuse.h").exists():
        return "libfuse3 is missing; run: apt-get install libfuse3-dev"
    if shutil.which("fusermount3") is None:
        return "fusermount3 is missing; run: apt-get install fuse3"
    return None


def _may_mount() -> bool:
    status = Path("/proc/self/status").read_text(encoding="ascii")
    (effective,) = re.findall(r"^CapEff:\s+([0-9a-f]+)$", status, re.MULTILINE)
    return bool(int(effective, 16) & _CAP_SYS_ADMIN)


def build_recorder(directory: Path) -> Path:
    """Compile the recorder with the machine's compiler; return the program."""
    program = directory / "recorder"
    command = [
        *_compiler(),
        *("-O2", "-Wall", "-Wextra", "-Werror", "-I/usr/include/fuse3", "-o", str(program)),
        *(*map(str, SOURCES), "-lfuse3", "-lpthread"),
    ]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    if run.returncode != 0:
        raise RecorderError(f"the recorder cannot be compiled: {run.stderr}")
    return program


def _compiler() -> list[str]:
    return os.environ.get("CC", "cc").split()


class Notes:
    """What clients were told, in the same order as what was written to the disk.

    A note that is in the journal before a power cut must be true after it.
    """

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._lock = threading.Lock()

    def write(self, *words: object) -> None:
        """Append one note, in one call: half a note was never told to anybody."""
        with self._lock:
            os.write(self._descriptor, json.dumps(words).encode() + b"\n")

    def close(self) -> None:
        os.close(self._descriptor)


@dataclass(frozen=True)
class Mounted:
    """A directory whose changes are being written down."""

    notes: Notes


@contextlib.contextmanager
def recording(root: Path, base: Path, journal: Path, program: Path) -> Iterator[Mounted]:
    """Record what happens below ``root``, whose content is copied to ``base`` first.

    ``base`` is what was there before, and everything in it counts as durable. ``root`` is empty
    afterwards, and only the base and the journal remain.
    """
    # Beside it, because a move to another file system would not keep the owners.
    backing = root.with_name(root.name + "-backing")
    root.rename(backing)
    _copy_tree(backing, base)
    root.mkdir(mode=0o755)
    command = [str(program), str(backing), str(journal), str(root)]
    if os.geteuid() == 0:
        command.append("allow_other")  # The server runs as another user.
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        _wait_until_mounted(root, process)
        notes = Notes(root / NOTES)
        try:
            yield Mounted(notes)
        finally:
            notes.close()
    finally:
        _unmount(root, process)
        shutil.rmtree(backing, ignore_errors=True)
    if process.returncode != 0:
        raise RecorderError(f"the recorder failed: {_errors(process)}")


def _copy_tree(source: Path, target: Path) -> None:
    subprocess.run(["cp", "--archive", str(source), str(target)], check=True)


def _wait_until_mounted(root: Path, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 30
    while not root.is_mount():
        if process.poll() is not None or time.monotonic() > deadline:
            raise RecorderError(f"the recorder did not mount {root}: {_errors(process)}")
        time.sleep(0.02)


def _unmount(root: Path, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 30
    while process.poll() is None:
        # Backends that were just killed may hold files for a moment.
        subprocess.run(["fusermount3", "-u", str(root)], capture_output=True, check=False)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=0.5)
        if time.monotonic() > deadline:
            process.kill()
            process.wait()
            subprocess.run(["fusermount3", "-uz", str(root)], capture_output=True, check=False)


def _errors(process: subprocess.Popen[bytes]) -> str:
    assert process.stderr is not None
    return process.stderr.read().decode(errors="replace").strip() or f"exit {process.returncode}"
