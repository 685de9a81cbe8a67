"""The LUKS volume of ``compare`` is undone whatever fails or is interrupted, with stub programs."""

from __future__ import annotations

import errno
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from tde_bench.compare.volumes import gocryptfs, luks
from tde_bench.errors import BenchError
from tde_bench.servers.workspace import mounts_below, workspace

from tests.bench.compare.volume_run import VOLUME_BYTES
from tests.bench.whole_runs import reachable_directory

DEADLINE_SECONDS = 60
HERE = Path(__file__).parent


class Stubs:
    """Stub programs, and a process that makes a volume with them."""

    def __init__(self, state: Path, directory: Path, plan: dict[str, str]) -> None:
        self.state = state
        self.directory = directory
        self._bin = state / "bin"
        self._bin.mkdir()
        (state / "mapper").mkdir()
        (state / "mounts").touch()
        (state / "plan").write_text(json.dumps(plan))
        stub = shlex.join([sys.executable, "-S", str(HERE / "volume_stub.py"), str(state)])
        for program in ("cryptsetup", "mkfs.ext4", "mount", "umount"):
            file = self._bin / program
            file.write_text(f'#!/bin/sh\nexec {stub} {program} "$@"\n')
            file.chmod(0o755)

    def start(self, then: str) -> subprocess.Popen[str]:
        script = str(HERE / "volume_run.py")
        return subprocess.Popen(
            [sys.executable, script, str(self.directory), str(self.state), then],
            env={**os.environ, "PATH": f"{self._bin}:{os.environ['PATH']}"},
            stderr=subprocess.PIPE,
            text=True,
            # As a terminal does: Ctrl-C goes to all processes of the group.
            start_new_session=True,
        )

    def run(self) -> tuple[int, str]:
        with self.start("return") as process:
            _, errors = process.communicate(timeout=DEADLINE_SECONDS)
        return process.returncode, errors

    def interrupt(self, reached: str) -> str:
        """Press Ctrl-C once a step was called, or "inside" for the block; return the errors."""
        with self.start("wait") as process:
            deadline = time.monotonic() + DEADLINE_SECONDS
            while not self._has(reached):
                assert process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.02)
            os.killpg(process.pid, signal.SIGINT)
            _, errors = process.communicate(timeout=DEADLINE_SECONDS)
        assert str(process.pid) not in (self.state / "groups").read_text().split()
        return errors

    def _has(self, reached: str) -> bool:
        if reached == "inside":
            return (self.state / "allocated").exists()
        if reached == "cryptsetup open":
            return any((self.state / "mapper").iterdir())
        return bool((self.state / "mounts").read_text())

    @property
    def calls(self) -> list[str]:
        return (self.state / "calls").read_text().splitlines()

    def assert_nothing_is_left(self) -> None:
        assert (self.state / "mounts").read_text() == ""
        assert list((self.state / "mapper").iterdir()) == []
        assert list(self.directory.iterdir()) == []


@pytest.fixture
def directory() -> Iterator[Path]:
    with reachable_directory() as path:
        yield path


def test_volume_is_made_and_undone(tmp_path: Path, directory: Path) -> None:
    stubs = Stubs(tmp_path, directory, {})
    assert stubs.run() == (0, "")
    stubs.assert_nothing_is_left()
    steps = [call.split()[0] for call in stubs.calls]
    assert steps == ["cryptsetup", "cryptsetup", "mkfs.ext4", "mount", "umount", "cryptsetup"]


def test_nothing_is_left_to_be_written_while_rounds_are_measured(
    tmp_path: Path, directory: Path
) -> None:
    stubs = Stubs(tmp_path, directory, {})
    assert stubs.run() == (0, "")
    # All blocks of the file are there.
    assert int((tmp_path / "allocated").read_text()) >= VOLUME_BYTES
    assert "--sector-size 4096" in stubs.calls[0]
    assert "-E lazy_itable_init=0,lazy_journal_init=0" in stubs.calls[2]


def test_disk_without_room_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int, start: int, length: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(BenchError, match="cannot allocate 8 GiB: No space left"):
        luks(tmp_path).__enter__()
    assert not (tmp_path / "luks-image").exists()


@pytest.mark.parametrize("step", ["cryptsetup open", "mount"])
def test_interrupted_step_is_undone(tmp_path: Path, directory: Path, step: str) -> None:
    stubs = Stubs(tmp_path, directory, {step: "hang"})
    assert "KeyboardInterrupt" in stubs.interrupt(step)
    stubs.assert_nothing_is_left()


@pytest.mark.parametrize("step", ["cryptsetup luksFormat", "cryptsetup open", "mkfs.ext4", "mount"])
def test_failed_step_is_undone_and_reported(tmp_path: Path, directory: Path, step: str) -> None:
    stubs = Stubs(tmp_path, directory, {step: "fail"})
    status, errors = stubs.run()
    assert status == 1
    assert errors.splitlines()[-1].endswith(f"ended with status 1: {step}: target is busy")
    stubs.assert_nothing_is_left()


@pytest.mark.parametrize("step", ["umount", "cryptsetup close"])
def test_busy_volume_is_undone_a_moment_later(tmp_path: Path, directory: Path, step: str) -> None:
    stubs = Stubs(tmp_path, directory, {step: "busy"})
    assert stubs.run() == (0, "")
    stubs.assert_nothing_is_left()


def test_volume_that_stays_busy_is_left_to_the_kernel(tmp_path: Path, directory: Path) -> None:
    stubs = Stubs(tmp_path, directory, {"umount": "fail", "cryptsetup close": "fail"})
    assert stubs.run() == (0, "")
    assert any(call.startswith("umount -l ") for call in stubs.calls)
    assert stubs.calls[-1].startswith("cryptsetup close --deferred tde-bench-")


def test_failed_clean_up_says_what_to_run_and_hides_no_interruption(
    tmp_path: Path, directory: Path
) -> None:
    plan = dict.fromkeys(["umount", "umount -l", "cryptsetup close --deferred"], "fail")
    stubs = Stubs(tmp_path, directory, plan)
    errors = stubs.interrupt("inside")
    assert errors.splitlines()[-1].startswith("KeyboardInterrupt")
    (mounted,) = (tmp_path / "mounts").read_text().split()
    (mapping,) = (tmp_path / "mapper").iterdir()
    assert f"Run by hand: umount -l {mounted}\n" in errors
    assert f"Run by hand: cryptsetup close --deferred {mapping.name}\n" in errors
    assert f"Remove it: umount -l {mounted} && rm -r {Path(mounted).parent}\n" in errors
    # What is mounted is never removed file by file.
    assert (Path(mounted) / "inside").exists()


def test_mounts_are_found(tmp_path: Path) -> None:
    assert Path("/proc") in mounts_below(Path("/"))
    assert mounts_below(Path("/proc"))
    assert mounts_below(tmp_path) == []


def test_workspace_with_a_mount_is_not_removed(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tde_bench.servers.workspace._REMOVE_ATTEMPTS", 1)
    used = workspace(directory, keep=False)
    folder = used.__enter__()
    (folder / "file").touch()
    mounted = SimpleNamespace(mountpoint=str(folder / "mounted"))
    monkeypatch.setattr(psutil, "disk_partitions", lambda all: [mounted])
    with pytest.raises(BenchError, match="could not be removed") as raised:
        used.__exit__(None, None, None)
    assert raised.value.remedy == f"Remove it: umount -l {folder}/mounted && rm -r {folder}"
    assert (folder / "file").exists()


def test_daemon_that_does_not_end_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stub = tmp_path / "gocryptfs"
    stub.write_text(
        "#!/bin/sh\n"
        'case "$*" in *-init*) exit 0;; esac\n'
        "trap '' TERM\n"
        f"echo $$ > {tmp_path}/pid\n"
        "while :; do sleep 1; done\n"
    )
    stub.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr("tde_bench.compare.volumes._MOUNT_SECONDS", 1)
    monkeypatch.setattr("tde_bench.compare.volumes._FINISH_SECONDS", 1)
    with pytest.raises(BenchError, match="gocryptfs did not mount"):
        gocryptfs(tmp_path).__enter__()
    assert not psutil.pid_exists(int((tmp_path / "pid").read_text()))
