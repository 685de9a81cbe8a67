"""Clients that `tde pg exec` runs find the server of the data directory by themselves."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tde.postgres.server.named_server import names_server
from tests.keystore.cheap_passphrase import PASSPHRASE


def test_clients_connect_to_the_server_of_the_data_directory(
    encrypted_cluster_factory, any_binaries, os_user_tmp_path, tde_command
):
    made = encrypted_cluster_factory(any_binaries, options={"port": "54321"})
    execute = ["pg", "exec", "-D", made.data_directory, "--passphrase-fd", 0]
    backup = os_user_tmp_path / "backup"
    tde_command(*execute, "pg_basebackup", "-D", backup)
    assert (backup / "PG_VERSION").exists()
    shown = tde_command(*execute, "psql", "-d", "postgres", "-Atc", "SHOW port")
    assert shown.stdout == "54321\n"
    assert "CREATE ROLE" in tde_command(*execute, "pg_dumpall", "--roles-only").stdout
    other = tde_command(*execute, "psql", "-d", "host=/nowhere dbname=postgres", exit_code=2)
    assert "/nowhere/.s.PGSQL.5432" in other.stderr
    other = tde_command(*execute, "psql", "-h", "/nowhere", "-d", "postgres", exit_code=2)
    assert "/nowhere/.s.PGSQL.5432" in other.stderr
    # Without a server nothing is known, and the client looks where it always does.
    made.cluster.stop()
    tde_command(*execute, "psql", "-p", "54321", "-d", "postgres", exit_code=2)


@pytest.mark.parametrize(
    ("program", "arguments", "expected"),
    [
        ("psql", [], False),
        ("psql", ["-Xh", "there"], True),
        ("psql", ["-dphone"], False),
        ("psql", ["-d", "host=there"], True),
        ("psql", ["-d", "dbname=shop user=app"], False),
        ("psql", ["postgresql://there/shop"], True),
        ("psql", ["--dbname=port=5433"], True),
        ("psql", ["-v", "port=5433"], False),
        ("psql", ["--set", "host=there"], False),
        ("psql", ["-c", "SELECT 1 WHERE 'host=' = ''"], False),
        ("psql", ["--por", "5433"], True),
        ("pg_basebackup", ["-D", "/srv/-h", "-P"], False),
        ("pg_basebackup", ["-D", "x", "-p5433"], True),
        # These are no clients, or of a server that is another on purpose.
        ("pg_waldump", ["-n", "1"], True),
        ("postgres", [], True),
        ("pg_rewind", ["--source-server", "dbname=postgres"], True),
    ],
)
def test_what_names_a_server_is_found(program, arguments, expected):
    assert names_server(program, arguments, {}) is expected


def test_variables_that_name_a_server_are_found():
    for name in ("PGHOST", "PGHOSTADDR", "PGPORT", "PGSERVICE"):
        assert names_server("psql", [], {name: "there"})
        assert not names_server("psql", [], {name: ""})


def test_a_signal_reaches_the_program(encrypted_cluster_factory, any_binaries, os_user_tmp_path):
    """pg_basebackup went on alone, and the exit code was none that a shell knows."""
    made = encrypted_cluster_factory(any_binaries)
    backup = os_user_tmp_path / "backup"
    tde = Path(sys.executable).with_name("tde")
    command = [tde, "pg", "exec", "-D", made.data_directory, "--passphrase-fd", "0"]
    command += ["pg_basebackup", "-D", backup, "-X", "fetch", "--max-rate=64k"]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        process.stdin.write(PASSPHRASE)
        process.stdin.close()
        program = psutil.Process(process.pid)
        deadline = time.monotonic() + 60
        # It is the same process, so nobody has to pass anything on.
        while program.name() != "pg_basebackup" or not (backup / "PG_VERSION").exists():
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.terminate()
        assert process.wait(timeout=60) == -signal.SIGTERM
    for other in psutil.process_iter(["cmdline"]):
        assert str(backup) not in (other.info["cmdline"] or [])
