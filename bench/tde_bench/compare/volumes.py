"""Encrypted directories for the clusters of those peers that encrypt below the server."""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tde_bench.errors import BenchError
from tde_bench.measure.signals import signals_wait
from tde_bench.servers.workspace import mounts_below

_MOUNT_SECONDS = 60
# How long something may stay busy before it is undone the hard way.
_UNDO_SECONDS = 20
# How long an interrupted program may take to finish what it is doing.
_FINISH_SECONDS = 10
_PAUSE_SECONDS = 0.05
_VOLUME_BYTES = 8 << 30
_MAPPINGS = Path("/dev/mapper")

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Volume:
    """A mounted directory, and who works for it.

    Attributes:
        pids: processes that work for this volume alone.
        kernel_threads: whether threads of the kernel do, whose CPU belongs to no process.
    """

    mount_point: Path
    pids: tuple[int, ...] = ()
    kernel_threads: bool = False


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
                deadline = time.monotonic() + _MOUNT_SECONDS
                while not mounts_below(mounted):
                    if daemon.poll() is not None or time.monotonic() > deadline:
                        errors.seek(0)
                        raise BenchError(f"gocryptfs did not mount: {errors.read().decode()}")
                    time.sleep(_PAUSE_SECONDS)
                yield Volume(mounted, (daemon.pid,))
            finally:
                with signals_wait():
                    _unmount_fuse(mounted)
                    daemon.terminate()
                    _finish(daemon)


def _unmount_fuse(mounted: Path) -> None:
    """Unmount, which ends the daemon; a server that just stopped may keep it busy for a moment."""
    program = shutil.which("fusermount3") or shutil.which("fusermount") or "fusermount"
    _undo(
        lambda: bool(mounts_below(mounted)),
        [program, "-u", str(mounted)],
        [program, "-u", "-z", str(mounted)],
    )


@contextmanager
def luks(folder: Path) -> Iterator[Volume]:
    """Mount ext4 on dm-crypt on a file for the time of a ``with`` block; root only.

    Raises:
        BenchError: when a step fails, with what the program printed.
    """
    image, mounted = folder / "luks-image", folder / "luks-mounted"
    name = f"tde-bench-{secrets.token_hex(6)}"
    device = _MAPPINGS / name
    mounted.mkdir(mode=0o700)
    # What undoes a step is registered before it, because even a step that fails or is interrupted
    # may have had its effect.
    with _passphrase_file() as key, ExitStack() as stack:
        # The other peers need its room when this one fails.
        stack.callback(image.unlink, missing_ok=True)
        _allocate(image)
        cheap = ["--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000"]
        cipher = ["--cipher", "aes-xts-plain64", "--key-size", "512", "--key-file", str(key)]
        # One call of the cipher for a block of ext4, instead of eight.
        kind = ["--type", "luks2", "--sector-size", "4096"]
        _run(["cryptsetup", "-q", "luksFormat", *kind, *cheap, *cipher, str(image)])
        stack.callback(_close, device)
        _run(["cryptsetup", "open", "--key-file", str(key), str(image), name])
        # Else the kernel would write inode tables and journal while rounds are measured.
        now = ["-E", "lazy_itable_init=0,lazy_journal_init=0"]
        _run(["mkfs.ext4", "-q", *now, str(device)])
        stack.callback(_unmount, mounted)
        _run(["mount", str(device), str(mounted)])
        yield Volume(mounted, kernel_threads=True)


def _allocate(image: Path) -> None:
    """Make the file of a volume with all its blocks, so that no round has to allocate them.

    Raises:
        BenchError: when the disk has no room for it.
    """
    try:
        with image.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, _VOLUME_BYTES)
    except OSError as error:
        raise BenchError(f"cannot allocate {_VOLUME_BYTES >> 30} GiB: {error.strerror}") from error


def _unmount(mounted: Path) -> None:
    _undo(
        lambda: bool(mounts_below(mounted)),
        ["umount", str(mounted)],
        ["umount", "-l", str(mounted)],
    )


def _close(device: Path) -> None:
    # Only the link's own existence counts, not that of what it points to.
    _undo(
        lambda: os.path.lexists(device),
        ["cryptsetup", "close", device.name],
        ["cryptsetup", "close", "--deferred", device.name],
    )


def _undo(present: Callable[[], bool], command: Sequence[str], last: Sequence[str]) -> None:
    """Repeat a command until what it undoes is gone; after a while, run the last resort.

    A failure is only said, on standard error with the command to run by hand: an exception from
    here would hide the one that ended the run.

    Args:
        present: whether there is something to undo.
        command: undoes it, unless it is busy.
        last: lets the kernel undo it as soon as it is not busy any more.
    """
    with signals_wait():
        deadline = time.monotonic() + _UNDO_SECONDS
        try:
            while present() and time.monotonic() < deadline:
                if not _succeeds(command):
                    time.sleep(_PAUSE_SECONDS)
            if present():
                _run(last, seconds=_UNDO_SECONDS)
        except (BenchError, OSError) as error:
            _log.error("%s. Run by hand: %s", error, " ".join(last))


def _succeeds(command: Sequence[str]) -> bool:
    try:
        _run(command, seconds=_UNDO_SECONDS)
    except BenchError:
        return False
    return True


@contextmanager
def _passphrase_file() -> Iterator[Path]:
    """Keep a random passphrase in memory under a name that programs can open."""
    descriptor = os.memfd_create("tde-bench-passphrase", 0)
    try:
        os.write(descriptor, secrets.token_hex(32).encode())
        yield Path(f"/proc/{os.getpid()}/fd/{descriptor}")
    finally:
        os.close(descriptor)


def _run(command: Sequence[str], *, seconds: float | None = None) -> None:
    """Run a program that Ctrl-C does not reach; when this process is interrupted, let it finish.

    A program that is killed halfway may leave something that appears only later, when nobody
    looks for it any more.

    Args:
        command: the program and its arguments.
        seconds: how long it may take; None is for ever.

    Raises:
        BenchError: when it fails or takes longer, with what it printed.
    """
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        try:
            status = process.wait(seconds)
        except subprocess.TimeoutExpired as error:
            raise BenchError(f"{' '.join(command)} did not end within {seconds:.0f} s") from error
        finally:
            _finish(process)
        if status != 0:
            output.seek(0)
            printed = output.read().decode(errors="replace").strip()
            raise BenchError(f"{command[0]} ended with status {status}: {printed}")


def _finish(process: subprocess.Popen[bytes]) -> None:
    """Wait for the end of a program, and kill it when that takes too long."""
    with signals_wait():
        try:
            process.wait(_FINISH_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
