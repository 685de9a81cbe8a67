"""Real, plain servers under the benchmark: canary, consistency, existing servers."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from tde_bench.configurations import NO_ENCRYPTION, Configuration
from tde_bench.errors import BenchError, CanaryError, ConsistencyError
from tde_bench.measure.cpu_time import tree_cpu_seconds
from tde_bench.measure.result import BenchmarkResult
from tde_bench.measure.usage import read_usage
from tde_bench.servers import canary
from tde_bench.servers.canary_check import check_canary, describe_canary
from tde_bench.servers.database import (
    Connection,
    create_database,
    execute,
    fetch_value,
    write_checkpoint,
)
from tde_bench.servers.description import compare_settings
from tde_bench.servers.ephemeral import EphemeralServer, ephemeral_settings
from tde_bench.servers.existing import ExistingServer
from tde_bench.servers.existing_access import may_checkpoint
from tde_bench.servers.facts import REDACTED, recorded_settings
from tde_bench.servers.workspace import workspace
from tde_bench.workloads.base import Driver
from tde_bench.workloads.pgbench import PgbenchOptions, summarize_latency
from tde_bench.workloads.tpcb_tables import read_sums, require_consistent

from tde.postgres import find_binaries


@pytest.fixture(scope="module")
def server() -> Iterator[EphemeralServer]:
    """A plain cluster with the TPC-B tables at scale 1."""
    binaries = find_binaries()
    with workspace(None, keep=False) as folder:
        plain = EphemeralServer(NO_ENCRYPTION, folder / "none", binaries)
        try:
            plain.start(ephemeral_settings("16MB"), keep=False)
            Driver(plain, binaries.program("pgbench")).pgbench.initialize(1)
            yield plain
        finally:
            plain.close()
    assert not folder.exists()


def test_canary_is_found_in_a_plain_cluster(server: EphemeralServer) -> None:
    assert server.data_directory is not None
    with contextlib.closing(server.connect()) as connection:
        report = canary.plant_and_search(connection, server.data_directory)
    canary.require(report, encrypted=False, label="none")
    assert len(report.relation_files) == 1
    assert len(report.wal_files) >= 1


def test_a_plain_cluster_does_not_pass_for_an_encrypted_one(server: EphemeralServer) -> None:
    assert server.data_directory is not None
    with contextlib.closing(server.connect()) as connection:
        report = canary.plant_and_search(connection, server.data_directory)
    with pytest.raises(CanaryError, match="not encrypted"):
        canary.require(report, encrypted=True, label="AES-256")


def test_a_search_that_finds_nothing_is_noticed(
    server: EphemeralServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(canary, "file_contains", lambda path, marker: False)
    assert server.data_directory is not None
    with contextlib.closing(server.connect()) as connection:
        report = canary.plant_and_search(connection, server.data_directory)
    with pytest.raises(CanaryError, match="search is broken"):
        canary.require(report, encrypted=False, label="none")


def test_pgbench_run_and_its_consistency(server: EphemeralServer) -> None:
    pgbench = Driver(server, find_binaries().program("pgbench")).pgbench
    assert server.postmaster_pid is not None
    before = tree_cpu_seconds(server.postmaster_pid)
    seen: list[float] = []
    result = pgbench.run(
        PgbenchOptions(clients=2, jobs=2),
        seconds=2,
        seed=1,
        on_progress=lambda elapsed, tps: seen.append(tps),
    )
    assert result.summary.transactions > 0
    assert result.latencies.size == result.summary.transactions
    latency = summarize_latency(result.latencies)
    assert latency.p50 <= latency.p95 <= latency.p99 <= latency.maximum
    assert seen
    # The backends have ended by now, so this time comes from the postmaster's reaped children.
    assert tree_cpu_seconds(server.postmaster_pid) > before
    with contextlib.closing(server.connect()) as connection:
        write_checkpoint(connection)
        sums = read_sums(connection)
        require_consistent(sums, label="none", at_least=result.summary.transactions)
        with pytest.raises(ConsistencyError, match="confirmed"):
            require_consistent(sums, label="none", at_least=sums.transactions + 1)
        execute(connection, "UPDATE pgbench_accounts SET abalance = abalance + 1 WHERE aid = 1")
        with pytest.raises(ConsistencyError, match="disagree"):
            require_consistent(read_sums(connection), label="none", at_least=0)
        execute(connection, "UPDATE pgbench_accounts SET abalance = abalance - 1 WHERE aid = 1")


def test_a_plain_server_has_no_cipher_bytes(server: EphemeralServer) -> None:
    usage = read_usage(server)
    assert usage.cipher is None
    assert usage.cpu_seconds is not None


def test_variables_of_the_user_do_not_reach_an_ephemeral_server(
    server: EphemeralServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGOPTIONS", "-c work_mem=123MB")
    monkeypatch.setenv("PGSERVICE", "nope")
    monkeypatch.setenv("PGDATABASE", "ignored")
    with contextlib.closing(server.connect()) as connection:
        assert fetch_value(connection, "SHOW work_mem") == "4MB"
    assert os.environ["PGSERVICE"] == "nope"
    assert not any(name.startswith("PG") for name in server.client_environment)


def test_pgbench_errors_are_shown(server: EphemeralServer) -> None:
    pgbench = Driver(server, find_binaries().program("pgbench")).pgbench
    with pytest.raises(BenchError, match="pgbench ended with status"):
        pgbench.run(
            PgbenchOptions(clients=0, jobs=1), seconds=1, seed=1, on_progress=lambda *_: None
        )


def _databases(server: EphemeralServer) -> int:
    with contextlib.closing(server.connect()) as connection:
        return int(fetch_value(connection, "SELECT count(*) FROM pg_database"))


def test_existing_server_works_in_a_scratch_database(server: EphemeralServer) -> None:
    existing = ExistingServer(Configuration("mine", "mine", dsn=f"{server.dsn} password=secret"))
    count = _databases(server)
    existing.start()
    try:
        assert _databases(server) == count + 1
        assert existing.postmaster_pid == server.postmaster_pid
        assert existing.data_directory == server.data_directory
        assert existing.can_checkpoint
        assert "secret" not in existing.dsn
        assert existing.password == "secret"
    finally:
        existing.close()
    assert _databases(server) == count
    existing.close()


def test_an_interruption_while_the_scratch_database_is_created_leaves_none(
    server: EphemeralServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = _databases(server)

    def interrupted(connection: Connection, name: str) -> None:
        create_database(connection, name)
        raise KeyboardInterrupt

    monkeypatch.setattr("tde_bench.servers.existing.create_database", interrupted)
    existing = ExistingServer(Configuration("mine", "mine", dsn=server.dsn))
    with pytest.raises(KeyboardInterrupt):
        existing.start()
    existing.close()
    assert _databases(server) == count


def test_a_key_password_would_be_visible_and_is_refused() -> None:
    with pytest.raises(BenchError, match="sslpassword") as raised:
        ExistingServer(Configuration("mine", "mine", dsn="host=/tmp sslpassword=hidden"))
    assert "hidden" not in f"{raised.value}{raised.value.remedy}"


def test_a_search_that_fails_on_an_existing_server_stops_nothing(
    server: EphemeralServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def vanished(*arguments: object, **named: object) -> None:
        raise CanaryError("the canary search did not read base/1/2")

    monkeypatch.setattr(canary, "search", vanished)
    existing = ExistingServer(Configuration("mine", "mine", dsn=server.dsn))
    try:
        existing.start()
        report = check_canary(existing)
    finally:
        existing.close()
    assert report is not None
    assert report.not_checked == "the canary search did not read base/1/2"
    with pytest.raises(CanaryError, match="did not read"):
        check_canary(server)


def test_a_turn_gets_a_new_server_and_a_server_of_the_user_stays(server: EphemeralServer) -> None:
    existing = ExistingServer(Configuration("mine", "mine", dsn=server.dsn))
    existing.start()
    before = server.postmaster_pid
    existing.renew()
    assert existing.postmaster_pid == before
    existing.close()
    server.renew()
    assert server.postmaster_pid not in (None, before)
    with contextlib.closing(server.connect()) as connection:
        assert fetch_value(connection, "SELECT count(*) FROM pgbench_accounts") == 100_000


def test_who_may_checkpoint_is_known_also_before_postgresql_15(server: EphemeralServer) -> None:
    """There is no role pg_checkpoint there; a server that has it pretends here."""
    with contextlib.closing(server.connect()) as connection:
        execute(connection, "CREATE ROLE ordinary")
        execute(connection, "CREATE ROLE writer IN ROLE pg_checkpoint")
        allowed = {}
        execute(connection, "BEGIN")
        try:
            for when in ("now", "before 15"):
                for role in ("none", "ordinary", "writer"):
                    execute(connection, f"SET LOCAL ROLE {role}")
                    allowed[when, role] = may_checkpoint(connection)
                execute(connection, "SET LOCAL ROLE none")
                execute(connection, "SET LOCAL allow_system_table_mods = on")
                rename = "UPDATE pg_authid SET rolname = 'gone' WHERE rolname = 'pg_checkpoint'"
                execute(connection, rename)
        finally:
            execute(connection, "ROLLBACK")
            execute(connection, "DROP ROLE ordinary, writer")
    assert [key for key, may in allowed.items() if may] == [
        ("now", "none"),
        ("now", "writer"),
        ("before 15", "none"),
    ]


def test_a_user_who_may_not_switch_wal_is_not_checked(server: EphemeralServer) -> None:
    assert server.data_directory is not None
    with contextlib.closing(server.connect()) as connection:
        execute(connection, "CREATE ROLE writer IN ROLE pg_checkpoint")
        execute(connection, "GRANT CREATE ON SCHEMA public TO writer")
        try:
            execute(connection, "SET ROLE writer")
            report = canary.plant_and_search(connection, server.data_directory)
        finally:
            execute(connection, "RESET ROLE")
            execute(connection, "DROP OWNED BY writer")
            execute(connection, "DROP ROLE writer")
    assert "pg_switch_wal" in (report.not_checked or "")
    assert "not checked: the user lacks a right" in describe_canary(report)
    # Of a cluster that must be encrypted, no search is no proof.
    with pytest.raises(CanaryError, match="was not looked for"):
        canary.require(report, encrypted=True, label="AES-256")


def test_more_than_can_be_read_is_not_checked(
    server: EphemeralServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert server.data_directory is not None
    monkeypatch.setattr(canary, "MAXIMUM_BYTES", 10**6)
    with contextlib.closing(server.connect()) as connection:
        report = canary.plant_and_search(connection, server.data_directory)
    assert "GB are not read" in (report.not_checked or "")


def test_secrets_of_a_server_are_not_recorded(server: EphemeralServer) -> None:
    secrets = {
        "primary_conninfo": "host=a password=hidden",
        "archive_command": "cp --token=hidden %p /x",
        "restore_command": "fetch hidden",
        "ssl_passphrase_command": "echo hidden",
        "krb_server_keyfile": "/etc/hidden",
        "log_line_prefix": "password=hidden ",
    }
    result = BenchmarkResult({}, {"a": "a", "b": "b"})
    with contextlib.closing(server.connect()) as connection:
        plain = recorded_settings(connection)
        try:
            for name, value in secrets.items():
                execute(connection, f"ALTER SYSTEM SET {name} = %s", (value,))
            execute(connection, "SELECT pg_reload_conf()")
            while fetch_value(connection, "SHOW primary_conninfo") == "":
                time.sleep(0.05)
            settings = recorded_settings(connection)
        finally:
            execute(connection, "ALTER SYSTEM RESET ALL")
            execute(connection, "SELECT pg_reload_conf()")
    assert "hidden" not in str(settings)
    assert {settings[name] for name in secrets} == {REDACTED}
    assert settings["shared_buffers"] == "16MB"
    # What is empty holds no secret, and what differs is told without it.
    assert plain["primary_conninfo"] == ""
    result.facts = {"a": {"settings": plain}, "b": {"settings": settings}}
    compare_settings(result)
    (warning,) = result.warnings
    assert "primary_conninfo" in warning
    assert "hidden" not in warning


@pytest.mark.parametrize("dsn", ["host", "host=/nonexistent dbname=x"])
def test_a_server_that_is_not_there_is_reported(dsn: str) -> None:
    with pytest.raises(BenchError, match="mine: "):
        ExistingServer(Configuration("mine", "mine", dsn=dsn)).start()


def test_command_line_with_existing_servers(server: EphemeralServer, tmp_path: Path) -> None:
    count = _databases(server)
    json_file, csv_file, chart = tmp_path / "r.json", tmp_path / "r.csv", tmp_path / "r.svg"
    command = [sys.executable, "-m", "tde_bench", "oltp", "--scale=1", "--clients=1", "--jobs=1"]
    command += ["--duration=1", "--rounds=1", "--warmup=0", f"--json={json_file}"]
    command += [f"--csv={csv_file}", f"--chart={chart}"]
    command += [f"--existing={server.dsn}=first", f"--existing={server.dsn}=second"]
    completed = subprocess.run(command, capture_output=True, text=True, check=False)
    assert completed.returncode == 0, completed.stderr
    assert "first and second are on one server, whose CPU cannot be told apart" in " ".join(
        completed.stdout.split()
    )
    assert "first: looking for a canary row on disk, in 0." in completed.stderr
    assert "first: the canary row is in plaintext on disk" in completed.stderr
    document = json.loads(json_file.read_text())
    assert document["status"] == "complete"
    assert document["baseline"] == "first"
    assert [run["configuration"] for run in document["runs"]] == ["first", "second"]
    assert all(run["cpu_seconds"] is None for run in document["runs"])
    assert csv_file.read_text().count("\n") == 3
    assert chart.read_text().startswith("<?xml")
    assert _databases(server) == count


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--chart=x.jpeg"], "must end in .png or .svg"),
        (["--shared-buffers=lots"], "is not a size"),
        (["--json=/nonexistent/x.json"], "does not exist"),
        (["--bindir=/nonexistent"], "/nonexistent"),
    ],
)
def test_usage_errors_come_before_any_work(arguments: list[str], message: str) -> None:
    completed = subprocess.run(
        [sys.executable, "-m", "tde_bench", "oltp", "--quick", *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    assert completed.returncode == 1
    assert message in completed.stderr
    assert "Traceback" not in completed.stderr


def test_interrupted_start_leaves_no_process() -> None:
    """A postmaster that close() does not know by its pid file is found by its directory."""
    with workspace(None, keep=False) as folder:
        data = folder / "none" / "data"
        stray = subprocess.Popen([sys.executable, "-c", "input()", data], stdin=subprocess.PIPE)
        EphemeralServer(NO_ENCRYPTION, folder / "none", find_binaries()).close()
        assert not psutil.pid_exists(stray.pid)


def test_workspace_is_removed_or_kept() -> None:
    parent = Path(tempfile.mkdtemp())
    try:
        parent.chmod(0o755)
        with workspace(parent, keep=False) as folder:
            (folder / "file").touch()
        assert list(parent.iterdir()) == []
        with workspace(parent, keep=True) as folder:
            (folder / "file").touch()
        assert (folder / "file").exists()
    finally:
        shutil.rmtree(parent)
