"""The hand-over reaches the programs that need keys, and leaves no trace in any other one."""

from __future__ import annotations

import contextlib
import os
import stat
import threading
import time
from pathlib import Path

import psutil
import pytest

from tde.errors import TdeError
from tde.keystore.handover import MAGIC
from tde.postgres.server.program import run_program
from tests.postgres.cluster_copies import base_backup, configure, open_copy

# What a command of the configuration inherits: variables, and the first bytes of descriptors.
SPY = """\
#!/bin/sh
exec 2>&1
{{
    echo "run with $1"
    env
    ls -l /proc/self/fd
    for fd in /proc/self/fd/*; do
        case $(readlink $fd) in */memfd:tde*) head -c 8 $fd; echo " in $fd" ;; esac
    done
}} >> {report}
{then}
"""


def spy(directory: Path, then: str) -> tuple[Path, Path]:
    """Make a program that reports what it inherits and then does its work."""
    report = directory / "report"
    report.touch()
    report.chmod(0o666)
    program = directory / "spy"
    program.write_text(SPY.format(report=report, then=then))
    program.chmod(0o755)
    return program, report


def assert_no_keys(report: Path) -> None:
    lines = report.read_text(errors="replace").splitlines()
    assert [line for line in lines if line.startswith("run with")]
    assert any(line.startswith("PATH=") for line in lines)
    leaks = ("LD_PRELOAD", "TDE_IO", "memfd", MAGIC[:7].decode())
    assert [line for line in lines if any(leak in line for leak in leaks)] == []


def test_commands_of_the_server_inherit_nothing(any_binaries, encrypted_cluster_factory):
    directory = encrypted_cluster_factory.directory
    program, report = spy(directory, "exit 0")
    made = encrypted_cluster_factory(
        any_binaries,
        options={"archive_mode": "on", "archive_command": f"{program} archive_command"},
    )
    made.query("CREATE TABLE t AS SELECT 1 AS x")
    made.query("SELECT pg_switch_wal()")
    made.query(f"COPY t FROM PROGRAM '{program} COPY; echo 1' WHERE false")
    deadline = time.monotonic() + 60
    while "run with archive_command" not in report.read_text(errors="replace"):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    made.cluster.stop()
    assert "run with COPY" in report.read_text(errors="replace")
    assert_no_keys(report)


@pytest.mark.parametrize(
    "before", ["", "'{postgres}' -V > /dev/null; ", "'{postgres}' -D {data} -C restore_command; "]
)
def test_a_restore_command_of_pg_rewind_inherits_nothing(
    binaries_older_slow, encrypted_cluster_factory, os_user_tmp_path, os_user, before
):
    archive = os_user_tmp_path / "archive"
    archive.mkdir(mode=0o777)
    archive.chmod(0o777)
    program, report = spy(os_user_tmp_path, f'cp {archive}/$1 "$2"')
    options = {"archive_mode": "on", "archive_command": f"cp %p {archive}/%f"}
    old = encrypted_cluster_factory(binaries_older_slow, options=options)
    old.query("CREATE TABLE t AS SELECT generate_series(1, 1000) AS id")
    directory = os_user_tmp_path / "new"
    base_backup(old, directory, "--write-recovery-conf", "--wal-method=stream")
    new = open_copy(encrypted_cluster_factory, old, directory, old.keystore)
    new.start()
    new.query("SELECT pg_promote()")
    for _ in range(3):
        old.query("INSERT INTO t SELECT generate_series(1, 1000)")
        old.query("SELECT pg_switch_wal()")
    old.query("CHECKPOINT")
    new.query("INSERT INTO t VALUES (4711)")
    new.query("CHECKPOINT")
    new.cluster.stop()
    deadline = time.monotonic() + 60
    while len(list(archive.iterdir())) < 3:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    # A text that names postgres is no start of it by pg_rewind.
    named = before.format(postgres=binaries_older_slow.program("postgres"), data=old.data_directory)
    command = f"{named}{program} %f %p".replace("'", "''")
    configure(old, [f"restore_command = '{command}'"])
    # A crash, so that pg_rewind first starts a server in single-user mode.
    old.cluster.stop("immediate")
    for segment in sorted(archive.iterdir()):
        with contextlib.suppress(FileNotFoundError):
            if segment.name != max(path.name for path in archive.iterdir()):
                (old.data_directory / "pg_wal" / segment.name).unlink()
    arguments = ["--target-pgdata", str(old.data_directory), "--source-pgdata", str(directory)]
    result = run_program(
        old.cluster.binaries,
        "pg_rewind",
        [*arguments, "--restore-target-wal"],
        keystore=old.keystore,
        os_user=os_user,
    )
    assert result.returncode == 0, result.stderr
    assert_no_keys(report)
    (old.data_directory / "standby.signal").unlink(missing_ok=True)
    old.start()
    assert old.query("SELECT count(*) FROM t WHERE id = 4711") == [(1,)]


def test_nobody_keeps_the_keys_through_a_long_recovery(
    any_binaries, encrypted_cluster_factory, os_user_tmp_path
):
    primary = encrypted_cluster_factory(any_binaries)
    directory = os_user_tmp_path / "copy"
    base_backup(primary, directory, "--wal-method=fetch")
    copy = open_copy(encrypted_cluster_factory, primary, directory, primary.keystore)
    program, report = spy(os_user_tmp_path, "sleep 8; exit 1")
    configure(copy, [f"restore_command = '{program} %f'"])
    (directory / "recovery.signal").touch()

    def start() -> None:
        with contextlib.suppress(TdeError):
            copy.start(timeout=15)

    starting = threading.Thread(target=start)
    starting.start()
    try:
        deadline = time.monotonic() + 60
        while "run with" not in report.read_text(errors="replace"):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        (waiting,) = (
            process
            for process in psutil.process_iter(["name", "cmdline"])
            if process.info["name"] == "pg_ctl" and str(directory) in process.info["cmdline"]
        )
        own = [str(path.readlink()) for path in _descriptors(os.getpid())]
        assert [target for target in own if "tde-keys" in target] == []
        if os.geteuid() == 0:
            with contextlib.suppress(PermissionError):  # Root without CAP_SYS_PTRACE.
                others = [str(path.readlink()) for path in _descriptors(waiting.pid)]
                assert [target for target in others if "tde-keys" in target] == []
        # That of pg_ctl cannot be looked at by its own user either.
        assert Path(f"/proc/{waiting.pid}/environ").stat().st_uid == 0
    finally:
        starting.join(120)
    assert_no_keys(report)


def _descriptors(pid: int) -> list[Path]:
    found = []
    for path in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            if stat.S_ISLNK(path.lstat().st_mode):
                found.append(path)
    return [path for path in found if os.path.lexists(path)]
