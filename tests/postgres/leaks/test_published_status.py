"""What tde sees of a server whose /proc/<pid> is closed, as root and as the server's own user."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
from pathlib import Path

import psutil
import psycopg2
import pytest
from tde_bench.measure.cpu_time import tree_cpu_seconds
from tde_bench.measure.metadata import openssl_version

from tde.doctor import Verdict, doctor
from tde.machine.process_files import forbids_access, read_process_file
from tde.postgres import Cluster, io_counters, is_interposed
from tde.postgres.server.pidfile import is_server_of, read_postmaster_file
from tde.postgres.server.published import read_published_status
from tests.postgres.leaks.plain_user import as_plain_user

MEMORY = Path("/dev/shm")


def status_files(pid: int) -> set[str]:
    """Of one server: others run beside these tests."""
    return {path.name for path in MEMORY.glob(f"tde-*-{pid}-*")}


def test_the_servers_own_user_sees_that_it_encrypts(
    any_binaries, encrypted_cluster_factory, os_user
):
    made = encrypted_cluster_factory(any_binaries)
    made.query("CREATE TABLE t AS SELECT generate_series(1, 20000) AS id")
    made.query("CHECKPOINT")
    pid = made.cluster.pid
    directory = made.data_directory

    def look():
        assert forbids_access(pid)
        if os.geteuid() != 0:
            with contextlib.suppress(PermissionError):
                read_process_file(pid, "maps")
                raise AssertionError("the server's memory map may be read")
        assert read_postmaster_file(directory).pid == pid
        assert not is_server_of(pid, directory.parent)
        assert is_interposed(pid)
        counters = io_counters(pid)
        assert counters.relation_bytes_encrypted > 0
        assert counters.wal_bytes_encrypted > 0
        status = Cluster(directory, any_binaries).status()
        assert (status.running, status.interposed, status.pid) == (True, True, pid)
        assert openssl_version(pid).startswith("OpenSSL")
        assert tree_cpu_seconds(pid) > 0
        report = doctor(directory, any_binaries, keystore=made.keystore.path)
        checks = ("server", "aes", "openssl")
        verdicts = {name: {f.verdict for f in report.named(name)} for name in checks}
        assert verdicts == {name: {Verdict.OK} for name in checks}
        (core,) = report.named("core_dumps")
        assert (core.verdict, "itself" in core.detail) == (Verdict.OK, True)
        (log,) = report.named("log_access")
        assert str(made.cluster.default_log) in log.detail

    look()
    as_plain_user(os_user, look)


def test_another_user_cannot_pass_for_the_server(any_binaries, encrypted_cluster_factory, os_user):
    if os_user is None:
        pytest.skip("takes root, to make a file of another user")
    plain = encrypted_cluster_factory.plain(any_binaries)
    pid = plain.cluster.pid
    encrypted = encrypted_cluster_factory(any_binaries)
    (name,) = status_files(encrypted.cluster.pid)
    genuine = MEMORY / name
    forged = genuine.with_name(genuine.name.replace(f"-{encrypted.cluster.pid}-", f"-{pid}-"))
    forged.write_bytes(genuine.read_bytes())  # Belongs to root, not to the server's user.
    try:
        assert not is_interposed(pid)
        with forged.open("rb") as file:
            # Servers of other tests that start meanwhile remove what nobody has locked.
            fcntl.flock(file, fcntl.LOCK_SH)
            os.chown(forged, os_user.uid, os_user.gid)
            assert not is_interposed(pid)  # Names another process.
            forged.unlink()
        forged.symlink_to(genuine)
        assert not is_interposed(pid)
        assert read_postmaster_file(plain.data_directory).pid == pid
    finally:
        forged.unlink()


def test_a_server_whose_status_was_removed_still_counts_as_running(
    any_binaries, encrypted_cluster_factory, os_user
):
    made = encrypted_cluster_factory(any_binaries)
    pid = made.cluster.pid
    (name,) = status_files(pid)
    (MEMORY / name).unlink()
    assert as_plain_user(os_user, lambda: read_postmaster_file(made.data_directory).pid) == pid


def test_the_file_goes_with_its_server(any_binaries, encrypted_cluster_factory):
    made = encrypted_cluster_factory(any_binaries)
    pid = made.cluster.pid
    (name,) = status_files(pid)
    status = (MEMORY / name).stat()
    assert (status.st_mode & 0o777, status.st_uid) == (
        0o600,
        made.data_directory.stat().st_uid,
    )
    made.cluster.stop()
    assert not status_files(pid)
    made.start()
    pid = made.cluster.pid
    (killed,) = status_files(pid)
    processes = [psutil.Process(pid), *psutil.Process(pid).children()]
    os.kill(pid, signal.SIGKILL)
    psutil.wait_procs(processes, timeout=30)
    assert read_published_status(pid) is None
    made.start()  # Recovers, and clears away.
    assert not (MEMORY / killed).exists()
    assert io_counters(made.cluster.pid) is not None


def test_nobody_else_can_take_the_name_before_the_server(
    any_binaries, encrypted_cluster_factory, os_user
):
    """The attack: any local user made files for all process ids, and no server started."""
    made = encrypted_cluster_factory(any_binaries, start=False)
    namespace = Path("/proc/self/ns/pid").stat().st_ino
    squatted = [MEMORY / f"tde-{namespace}-{os.getpid() + n}" for n in range(1, 3000)]
    try:
        for path in squatted:
            path.touch(mode=0o600)
        made.start()
        assert io_counters(made.cluster.pid) is not None
    finally:
        for path in squatted:
            path.unlink(missing_ok=True)


def test_a_message_is_one_line_of_the_log(any_binaries, encrypted_cluster_factory):
    """The attack: the name of a file began a line that PostgreSQL could have written."""
    made = encrypted_cluster_factory(any_binaries)
    forged = "2026-11-28 20:20:00.000 UTC [1] PANIC:  could not write WAL"
    with contextlib.suppress(psycopg2.Error):
        made.query(f"COPY (SELECT 1) TO E'{made.data_directory}/x\\n{forged}\\033[2J'")
    log = made.cluster.default_log.read_text()
    assert "tde: refused to create" in log
    assert not [line for line in log.splitlines() if line.startswith("2026-11-28 20:20:00.000")]
    assert not [line for line in log.splitlines() if line.startswith("tde:") and "\033" in line]


def test_children_give_up_the_postmasters_protection_from_the_oom_killer(
    any_binaries, encrypted_cluster_factory
):
    made = encrypted_cluster_factory(any_binaries, start=False)
    variables = {"PG_OOM_ADJUST_FILE": "/proc/self/oom_score_adj", "PG_OOM_ADJUST_VALUE": "321"}
    made.start(environment=variables)

    def score(pid: int) -> str:
        return Path(f"/proc/{pid}/oom_score_adj").read_text().strip()

    own = Path("/proc/self/oom_score_adj").read_text().strip()
    pid = made.cluster.pid
    assert score(pid) == own
    children = psutil.Process(pid).children()
    assert children
    assert {score(child.pid) for child in children} == {"321"}
    assert score(pid) == own
