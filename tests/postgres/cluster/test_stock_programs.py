"""PostgreSQL's own programs, without the keys, on an encrypted cluster that was shut down."""

from __future__ import annotations

import re
import shutil
import time
from pathlib import Path

import pytest

from tde.errors import DamagedPagesError
from tde.postgres import install_bin_directory, run_program
from tde.postgres.server.os_user import run_as
from tests.postgres.cluster_copies import base_backup, configure, open_copy
from tests.postgres.control_files import (
    IN_PRODUCTION,
    NOTE,
    SHUT_DOWN,
    hidden_state,
    state_of,
    store_as_landed,
    with_state,
)

CONTROL = "global/pg_control"


def stock(made, program: str, *arguments: object) -> tuple[int, str]:
    """Run a program as a DBA who forgets tde; its exit code and what it printed."""
    cluster = made.cluster
    path = cluster.binaries.bindir / program
    if not path.exists():
        pytest.skip(f"this installation has no {program}")
    run = run_as(cluster.os_user, [path, *map(str, arguments)])
    return run.returncode, run.stdout + run.stderr


def content(directory: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}


@pytest.fixture
def stopped(binaries, encrypted_cluster_factory):
    """A cluster with rows, an unlogged table among them, that was shut down."""
    made = encrypted_cluster_factory(binaries)
    made.query("CREATE TABLE t AS SELECT generate_series(1, 1000) AS n")
    made.query("CREATE UNLOGGED TABLE u AS SELECT generate_series(1, 10) AS n")
    made.cluster.stop()
    return made


def require_whole(made) -> None:
    """Start the server: all rows are there, and it did not recover as after a crash."""
    made.start()
    assert made.query("SELECT count(*) FROM t") == [(1000,)]
    assert made.query("SELECT count(*) FROM u") == [(10,)]


@pytest.mark.parametrize(
    ("program", "arguments", "message"),
    [
        ("pg_checksums", ["--enable"], "cluster must be shut down"),
        ("pg_checksums", ["--disable"], "cluster must be shut down"),
        ("pg_checksums_ext", ["--enable"], "cluster must be shut down"),
        ("pg_checksums_ext", ["--disable"], "cluster must be shut down"),
        ("pg_resetwal", [], "not shut down cleanly"),
    ],
)
def test_programs_that_would_destroy_the_cluster_refuse_it(stopped, program, arguments, message):
    data = stopped.data_directory
    before = content(data)
    code, output = stock(stopped, program, *arguments, "-D", data)
    assert code != 0, output
    assert message in output
    assert content(data) == before
    require_whole(stopped)


def test_stock_pg_rewind_does_not_work_on_it(stopped):
    data = stopped.data_directory
    before = content(data)
    shutil.copytree(data, data.with_name("source"))
    code, output = stock(
        stopped, "pg_rewind", "--no-sync", "-D", data, "--source-pgdata", data.with_name("source")
    )
    assert code != 0, output
    assert content(data) == before
    require_whole(stopped)


def test_the_true_state_is_told_by_tde(stopped, keystore_factory, os_user_tmp_path, os_user):
    """In status and exec, and by the programs of a bin directory, without a passphrase."""
    data = stopped.data_directory
    assert state_of((data / CONTROL).read_bytes()) == IN_PRODUCTION
    assert "in production" in stock(stopped, "pg_controldata", data)[1]
    assert stopped.cluster.status().state == "shut down"
    run = run_program(
        stopped.cluster.binaries, "pg_controldata", [str(data)], os_user=os_user, keystore=None
    )
    assert re.search(r"cluster state: +shut down\n", run.stdout)

    keystore = keystore_factory("bin-keystore")
    keystore.enable_auto_open()
    made = install_bin_directory(
        os_user_tmp_path / "bin", stopped.cluster.binaries, os_user, keystore=keystore
    )
    keystore.close()
    (keystore.path / "auto-open.key").unlink()  # The state needs no key.
    run = run_as(os_user, [made.path / "pg_controldata", data])
    assert re.search(r"cluster state: +shut down\n", run.stdout), run.stderr


def test_with_the_keys_checksums_are_turned_off_and_on(stopped):
    for action in ("--disable", "--enable", "--check"):
        run = run_program(
            stopped.cluster.binaries,
            "pg_checksums",
            [action, "-D", str(stopped.data_directory)],
            keystore=stopped.keystore,
            os_user=stopped.cluster.os_user,
        )
        assert run.returncode == 0, run.stderr
        assert stopped.cluster.status().state == "shut down"
        assert state_of((stopped.data_directory / CONTROL).read_bytes()) == IN_PRODUCTION
    require_whole(stopped)


def test_a_bin_directory_gives_keys_to_debians_pg_checksums_ext(
    any_binaries, keystore_factory, os_user_tmp_path, os_user
):
    if not (any_binaries.bindir / "pg_checksums_ext").exists():
        pytest.skip("postgresql-NN-pg-checksums is not installed")
    keystore = keystore_factory("ks")
    keystore.enable_auto_open()
    made = install_bin_directory(
        os_user_tmp_path / "bin",
        any_binaries,
        os_user,
        keystore=keystore,
    )
    data = os_user_tmp_path / "data"

    def run(*command: object) -> str:
        result = run_as(os_user, [made.path / str(command[0]), *map(str, command[1:])])
        assert result.returncode == 0, result.stdout + result.stderr
        return result.stdout

    run("initdb", "-D", data, "--no-sync")
    run("pg_checksums", "--disable", "-D", data) if any_binaries.major > 17 else None
    run("pg_checksums_ext", "--enable", "-D", data)
    assert "Bad checksums:  0" in run("pg_checksums", "--check", "-D", data)


def test_clusters_of_earlier_releases_open_and_are_hidden_from_then_on(stopped):
    path = stopped.data_directory / CONTROL
    store_as_landed(stopped.data_directory)
    assert state_of(path.read_bytes()) == SHUT_DOWN
    require_whole(stopped)
    stopped.cluster.stop()
    assert path.read_bytes() == hidden_state(with_state(path.read_bytes(), SHUT_DOWN))


@pytest.mark.parametrize("damage", ["lost", "of another moment", "bit"])
def test_a_note_that_cannot_be_trusted_means_recovery_as_after_a_crash(stopped, damage):
    """A sector is written as a whole; should a disk do otherwise, no row that is logged is lost."""
    path = stopped.data_directory / CONTROL
    note = path.read_bytes()[NOTE]
    require_whole(stopped)
    stopped.query("INSERT INTO t SELECT 1001")
    stopped.cluster.stop()
    with path.open("r+b") as file:
        file.seek(NOTE.start)
        if damage == "lost":
            file.write(bytes(32))
        elif damage == "bit":
            changed = bytearray(path.read_bytes()[NOTE])
            changed[11] ^= 3  # From "shut down" to "shut down in recovery".
            file.write(changed)
        else:
            file.write(note)
    assert stopped.cluster.status().state == "in production"
    stopped.start()
    assert stopped.query("SELECT count(*) FROM t") == [(1001,)]


def test_a_standby_and_its_promotion_see_their_states(
    binaries, encrypted_cluster_factory, os_user_tmp_path
):
    primary = encrypted_cluster_factory(binaries, options={"wal_keep_size": "256MB"})
    directory = os_user_tmp_path / "standby"
    base_backup(primary, directory, "--write-recovery-conf", "--wal-method=stream")
    standby = open_copy(encrypted_cluster_factory, primary, directory, primary.keystore)
    standby.start()
    standby.cluster.stop()
    assert standby.cluster.status().state == "shut down in recovery"
    assert "in production" in stock(standby, "pg_controldata", directory)[1]
    standby.start()
    primary.cluster.stop()
    # pg_ctl waits for the state "in production", which it reads without keys.
    code, output = stock(standby, "pg_ctl", "promote", "-w", "-t", 30, "-D", directory)
    assert code == 0, output
    standby.query("CREATE TABLE t AS SELECT 1")
    standby.query("CHECKPOINT")  # Before 16, pg_rewind sees the new timeline only after that.
    # The old primary's WAL has nothing that the new one lacks, but the states are looked at.
    run = run_program(
        standby.cluster.binaries,
        "pg_rewind",
        [
            *("--no-sync", "-D", str(primary.data_directory), "--source-server"),
            " ".join(f"{k}={v}" for k, v in standby.cluster.connection_parameters().items()),
        ],
        keystore=primary.keystore,
        os_user=primary.cluster.os_user,
    )
    assert run.returncode == 0, run.stderr
    assert "single-user" not in run.stderr  # It was shut down, and pg_rewind sees that.


def test_pg_ctl_sees_that_recovery_ended_at_its_target(
    binaries, encrypted_cluster_factory, os_user_tmp_path
):
    """From 18 on pg_ctl reads the state to tell this from a failed start."""
    if binaries.major < 18:
        pytest.skip("pg_ctl of this version does not look")
    primary = encrypted_cluster_factory(binaries)
    directory = os_user_tmp_path / "restored"
    base_backup(primary, directory, "--wal-method=fetch")
    restored = open_copy(encrypted_cluster_factory, primary, directory, primary.keystore)
    configure(
        restored,
        [
            "recovery_target = immediate",
            "recovery_target_action = shutdown",
            "restore_command = false",
        ],
    )
    (directory / "recovery.signal").touch()
    for _ in range(10):
        run = run_program(
            restored.cluster.binaries,
            "pg_ctl",
            ["start", "-w", "-D", str(directory), "-o", "-h ''", "-l", f"{directory}.log"],
            keystore=primary.keystore,
            os_user=primary.cluster.os_user,
        )
        if "server started" not in run.stdout:
            break
        # pg_ctl has looked in the moment in which the standby was ready, before its target.
        deadline = time.monotonic() + 30
        while restored.cluster.pid is not None:
            assert time.monotonic() < deadline
            time.sleep(0.05)
    log = Path(f"{directory}.log").read_text()
    assert "because of recovery target settings" in run.stdout + run.stderr, log


def test_a_start_reads_catalogs_and_refuses_what_stock_pg_checksums_has_written_to(stopped):
    """On a cluster of an earlier release, whose state is not hidden."""
    data = stopped.data_directory
    store_as_landed(data)
    assert stock(stopped, "pg_checksums", "--disable", "-D", data)[0] == 0
    assert stock(stopped, "pg_checksums", "--enable", "-D", data)[0] == 0
    before = content(data)
    with pytest.raises(DamagedPagesError, match="own pg_checksums has written") as raised:
        stopped.start()
    assert f"tde pg repair-checksums -D {data}" in str(raised.value.remedy)
    assert stopped.cluster.pid is None
    assert content(data).items() >= before.items()


def test_a_start_refuses_catalogs_that_its_keys_do_not_decrypt(stopped):
    for path in (stopped.data_directory / "global").iterdir():
        if path.name.isdecimal() and path.stat().st_size:
            with path.open("r+b") as file:
                file.write(bytes(range(256)) * 32)
    with pytest.raises(DamagedPagesError, match="begins with a valid page"):
        stopped.start()
    assert stopped.cluster.pid is None
