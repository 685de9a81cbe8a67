"""Encrypted directories for the clusters of those peers that encrypt below the server."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tde_bench.errors import BenchError
from tde_bench.lifecycle import signals_wait

_DEADLINE_SECONDS = 60
_VOLUME_BYTES = 8 << 30


@dataclass(frozen=True)
class Volume:
    """A mounted directory, and the processes that work for it."""

    mount_point: Path
    pids: tuple[int, ...] = ()


@contextmanager
def gocryptfs(folder: Path) -> Iterator[Volume]:
    """Mount an encrypted directory below ``folder`` for the time of a ``with`` block.

    Raises:
        BenchError: when it cannot be mounted.
    """
    stored, mounted = folder / "gocryptfs-stored", folder / "gocryptfs-mounted"
    stored.mkdir(mode=0o700)
    mounted.mkdir(mode=0o700)
    with _passphrase_file() as passphrase:
        program = shutil.which("gocryptfs") or "gocryptfs"
        common = ["-q", "-nosyslog", "-passfile", str(passphrase)]
        # The cheapest key derivation: it happens once and is not what is compared.
        _run([program, "-init", "-scryptn", "10", *common, str(stored)])
        # Root mounts, but the server runs as somebody else.
        shared = ["-allow_other"] if os.geteuid() == 0 else []
        command = [program, "-fg", *common, *shared, str(stored), str(mounted)]
        with tempfile.TemporaryFile() as errors:
            daemon = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=errors,
                stderr=errors,
                # Ctrl-C must reach this program only, which then unmounts.
                start_new_session=True,
            )
            try:
                deadline = time.monotonic() + _DEADLINE_SECONDS
                while not mounted.is_mount():
                    if daemon.poll() is not None or time.monotonic() > deadline:
                        errors.seek(0)
                        raise BenchError(f"gocryptfs did not mount: {errors.read().decode()}")
                    time.sleep(0.05)
                yield Volume(mounted, (daemon.pid,))
            finally:
                with signals_wait():
                    _unmount(mounted, daemon)


def _unmount(mounted: Path, daemon: subprocess.Popen[bytes]) -> None:
    """Unmount, which ends the daemon; a server that just stopped may keep it busy for a moment."""
    program = shutil.which("fusermount3") or shutil.which("fusermount") or "fusermount"
    deadline = time.monotonic() + _DEADLINE_SECONDS
    while mounted.is_mount() and time.monotonic() < deadline:
        subprocess.run([program, "-u", str(mounted)], capture_output=True, check=False)
        time.sleep(0.05)
    if mounted.is_mount():
        subprocess.run([program, "-u", "-z", str(mounted)], capture_output=True, check=False)
    daemon.terminate()
    daemon.wait()


@contextmanager
def luks(folder: Path) -> Iterator[Volume]:
    """Mount ext4 on dm-crypt on a sparse file for the time of a ``with`` block; root only.

    Raises:
        BenchError: when a step fails, with what the program printed.
    """
    image, mounted = folder / "luks-image", folder / "luks-mounted"
    name = f"tde-bench-{secrets.token_hex(6)}"
    mounted.mkdir(mode=0o700)
    with image.open("wb") as file:
        file.truncate(_VOLUME_BYTES)
    with _passphrase_file() as key:
        cheap = ["--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000"]
        cipher = ["--cipher", "aes-xts-plain64", "--key-size", "512", "--key-file", str(key)]
        _run(["cryptsetup", "-q", "luksFormat", "--type", "luks2", *cheap, *cipher, str(image)])
        _run(["cryptsetup", "open", "--key-file", str(key), str(image), name])
    try:
        _run(["mkfs.ext4", "-q", f"/dev/mapper/{name}"])
        _run(["mount", f"/dev/mapper/{name}", str(mounted)])
        try:
            yield Volume(mounted)
        finally:
            with signals_wait():
                _run(["umount", str(mounted)])
    finally:
        with signals_wait():
            _run(["cryptsetup", "close", name])


@contextmanager
def _passphrase_file() -> Iterator[Path]:
    """Keep a random passphrase in memory under a name that programs can open."""
    descriptor = os.memfd_create("tde-bench-passphrase", 0)
    try:
        os.write(descriptor, secrets.token_hex(32).encode())
        yield Path(f"/proc/{os.getpid()}/fd/{descriptor}")
    finally:
        os.close(descriptor)


def _run(command: Sequence[str]) -> None:
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        printed = (done.stdout + done.stderr).strip()
        raise BenchError(f"{command[0]} ended with status {done.returncode}: {printed}")
