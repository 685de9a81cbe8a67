"""Failures of a run are said in plain words, with the configuration where it is known."""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import psycopg2
import pytest
from psycopg2 import errors
from psycopg2.extensions import parse_dsn
from tde_bench.cli.app import app
from tde_bench.cli.failures import in_plain_words, plain_errors
from tde_bench.configurations import NO_ENCRYPTION, Configuration
from tde_bench.errors import BenchError
from tde_bench.servers.database import execute, fetch_value
from tde_bench.servers.ephemeral import EphemeralServer, ephemeral_settings
from tde_bench.servers.existing import ExistingServer
from tde_bench.servers.workspace import workspace
from typer.testing import CliRunner

from tde.postgres import find_binaries
from tde.version import __version__


@pytest.fixture
def server() -> Iterator[EphemeralServer]:
    with workspace(None, keep=False) as folder:
        plain = EphemeralServer(NO_ENCRYPTION, folder / "none", find_binaries())
        try:
            plain.start(ephemeral_settings("16MB"), keep=False)
            yield plain
        finally:
            plain.close()


@pytest.mark.parametrize(
    ("error", "message", "remedy"),
    [
        (subprocess.TimeoutExpired(["/x/openssl"], 60), "openssl did not end within 60 s", "idle"),
        (psutil.NoSuchProcess(42), "process 42 of a server has ended", "log"),
        (psutil.AccessDenied(42), "process 42 of a server may not be looked at", "root"),
        (OSError(errno.ENOSPC, "No space", "/x/y"), "/x/y: No space", "--directory"),
        (errors.DiskFull("could not extend file"), "the disk of the server is full", "--directory"),
        (errors.ReadOnlySqlTransaction("no"), "it is a standby", "primary"),
        (errors.AdminShutdown("terminating"), "was restarted, or died", "log"),
        (psycopg2.OperationalError("server closed"), "was restarted, or died", "log"),
        (psycopg2.InterfaceError("already closed"), "was restarted, or died", "log"),
        (errors.UndefinedTable("no such table"), "refused a statement", ""),
    ],
)
def test_errors_of_libraries(error: Exception, message: str, remedy: str) -> None:
    with pytest.raises(BenchError, match=message) as raised, plain_errors():
        raise error
    assert remedy in raised.value.remedy


def test_other_errors_pass_unchanged() -> None:
    for error in (LookupError("bug"), BrokenPipeError(), KeyboardInterrupt(), BenchError("known")):
        with pytest.raises(type(error)) as raised, plain_errors():
            raise error
        assert raised.value is error
    assert in_plain_words(LookupError("bug")) is None


def test_a_server_that_dies_is_named(server: EphemeralServer) -> None:
    existing = ExistingServer(Configuration("mine", "my server", dsn=server.dsn))
    existing.start()
    with contextlib.closing(existing.connect()) as connection:
        assert existing.postmaster_pid == server.postmaster_pid
        server.crash()
        with pytest.raises(BenchError, match="my server: the server ended"), plain_errors():
            execute(connection, "SELECT 1")
    with pytest.raises(BenchError, match="my server: cannot connect"):
        existing.connect()
    with pytest.raises(BenchError, match="my server: the server was stopped or restarted"):
        assert existing.postmaster_pid


def test_a_scratch_database_that_stays_behind_is_named(server: EphemeralServer) -> None:
    existing = ExistingServer(Configuration("mine", "my server", dsn=server.dsn))
    existing.start()
    name = parse_dsn(existing.dsn)["dbname"]
    server.crash()
    with pytest.raises(BenchError, match="my server: the scratch database") as raised:
        existing.close()
    assert f"{name} stays behind" in str(raised.value)
    assert f"DROP DATABASE {name};" in raised.value.remedy
    server.start_again()
    existing.close()
    with contextlib.closing(server.connect()) as connection:
        query = "SELECT count(*) FROM pg_database WHERE datname = %s"
        assert fetch_value(connection, query, (name,)) == 0


def test_a_server_without_writes_is_named(server: EphemeralServer) -> None:
    dsn = f"{server.dsn} options='-c default_transaction_read_only=on'"
    existing = ExistingServer(Configuration("mine", "my server", dsn=dsn))
    with pytest.raises(BenchError, match="my server: the server takes no writes"), plain_errors():
        existing.start()
    existing.close()


def test_a_host_that_is_not_known_is_no_service() -> None:
    existing = ExistingServer(Configuration("mine", "mine", dsn="host=service.invalid"))
    with pytest.raises(BenchError, match="cannot connect") as raised:
        existing.start()
    assert raised.value.remedy == ""


def test_command_reports_a_service_that_does_not_exist(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tde_bench", "oltp", "--quick", "--existing=dbname=postgres=mine"],
        env={**os.environ, "PGSERVICE": "nope"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 1
    assert 'tde-bench: error: mine: cannot connect: definition of service "nope"' in done.stderr
    assert "HINT: Unset PGSERVICE" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_version_is_that_of_tde() -> None:
    shown = CliRunner().invoke(app, ["--version"])
    assert (shown.exit_code, shown.output) == (0, f"tde-bench {__version__}\n")
