"""The command line as an operator types it, in processes of its own."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tde.algorithms import Algorithm
from tde.keystore import KeyOwner
from tde.postgres import Cluster, run_program
from tests.keystore.cheap_passphrase import PASSPHRASE

SERVER_OPTIONS = "-c listen_addresses='' -c fsync=off -c shared_buffers=16MB"

Tde = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def tde() -> Tde:
    """Run ``tde`` with the passphrase on standard input and expect an exit code."""
    program = Path(sys.executable).with_name("tde")
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PG", "TDE_"))}

    def run(*arguments: object, exit_code: int = 0) -> subprocess.CompletedProcess[str]:
        result = subprocess.run(
            [program, *map(str, arguments)],
            input=PASSPHRASE.decode(),
            capture_output=True,
            text=True,
            env=environment,
            check=False,
            timeout=120,
        )
        assert result.returncode == exit_code, result.stdout + result.stderr
        return result

    return run


@pytest.fixture
def keystore(keystore_factory) -> Path:
    # Made here because the command's own has the full, slow key derivation.
    made = keystore_factory("keystore")
    made.close()
    return made.path


def test_a_server_starts_with_closed_standard_descriptors(
    tde, keystore, encrypted_cluster_factory, os_user_tmp_path, any_binaries
):
    data = os_user_tmp_path / "data"
    made = encrypted_cluster_factory.track(Cluster(data, any_binaries))
    secret = os_user_tmp_path / "passphrase"
    secret.write_bytes(PASSPHRASE)
    secret.chmod(0o600)
    file = ["--passphrase-file", secret]
    bindir = ["--bindir", any_binaries.bindir]
    tde("pg", "init", "-D", data, "-k", keystore, *file, *bindir, "--", "--no-sync")
    program = Path(sys.executable).with_name("tde")
    for closed in ("<&-", "<&- >&-", "<&- >&- 2>&-"):
        command = f"{program} pg start -D {data} --passphrase-file {secret} -o '{SERVER_OPTIONS}' "
        result = subprocess.run(["sh", "-c", command + closed], check=False, timeout=120)
        assert result.returncode == 0, closed
        assert made.status().interposed
        tde("pg", "stop", "-D", data)
        # Programs see their files, too.
        command = f"{program} pg exec -D {data} --passphrase-file {secret} pg_checksums -c {data} "
        result = subprocess.run(["sh", "-c", command + closed], check=False, timeout=120)
        assert result.returncode == 0, closed


def test_a_cluster_is_made_used_and_stopped_by_commands(
    tde, keystore, encrypted_cluster_factory, os_user_tmp_path, binaries
):
    data = os_user_tmp_path / "data"
    encrypted_cluster_factory.track(Cluster(data, binaries))
    passphrase = ["--passphrase-fd", 0]
    bindir = ["--bindir", binaries.bindir]

    made = tde("pg", "init", "-D", data, "-k", keystore, *passphrase, *bindir, "--", "--no-sync")
    assert "AES-256-XTS, scope cluster" in made.stdout
    tde("pg", "status", "-D", data, *bindir, exit_code=3)

    # In a directory of its own the port collides with nobody's.
    options = f"{SERVER_OPTIONS} -p 54399 -c unix_socket_directories={os_user_tmp_path}"
    started = tde("pg", "start", "-D", data, *passphrase, *bindir, "-o", options)
    assert "encrypted" in started.stdout
    assert f"Log: {data}.log" in started.stdout
    status = json.loads(tde("pg", "status", "-D", data, "--json").stdout)
    assert status["interposed"] is True
    assert status["protections"]["WAL"] == "AES-256-XTS"
    shown = tde("pg", "status", "-D", data).stdout
    assert "the server encrypts" in shown
    assert Path(status["libcrypto"]).is_file()
    assert re.fullmatch(r"OpenSSL \d+\.\d+\.\d+.*", status["libcrypto_version"])
    assert f"{status['libcrypto_version']} (" in " ".join(shown.split())

    answer = tde("psql", "-D", data, "--", "-Atc", "SHOW data_checksums")
    assert answer.stdout == "on\n"

    tablespace = ["tablespace", "create", "secret", "-D", data, *passphrase, "--aes", 128]
    tde(*tablespace, "--location", os_user_tmp_path / "space")
    listed = json.loads(tde("tablespace", "list", "-D", data, "--json").stdout)
    assert {t["name"]: t["protection"] for t in listed}["secret"] == "AES-128-XTS"
    assert "secret" in tde("tablespace", "list", "-D", data).stdout

    tde("pg", "restart", "-D", data, *passphrase)
    assert json.loads(tde("pg", "status", "-D", data, "--json").stdout)["port"] == 54399
    tde("pg", "stop", "-D", data, "-m", "smart")
    stopped = json.loads(tde("pg", "status", "-D", data, "--json", exit_code=3).stdout)
    assert (stopped["libcrypto"], stopped["libcrypto_version"]) == (None, None)


def test_exec_gives_programs_the_keys(tde, encrypted_cluster_factory, binaries):
    made = encrypted_cluster_factory(binaries)
    made.query("CREATE TABLE t AS SELECT generate_series(1, 10)")
    segment = made.query("SELECT pg_walfile_name(pg_current_wal_lsn())")[0][0]
    made.cluster.stop()
    made.keystore.close()
    data = made.data_directory
    shown = tde(
        *("pg", "exec", "-D", data, "--passphrase-fd", 0),
        *("pg_waldump", "-n", 3, "-p", data / "pg_wal", segment),
    )
    assert "rmgr:" in shown.stdout
    tde("pg", "exec", "-D", data, "--passphrase-fd", 0, "pg_checksums", "-D", data)
    tde("pg", "exec", "-D", data, "--passphrase-fd", 0, "pg_waldump", "--nosuch", exit_code=1)


def test_errors_have_hints_and_exit_codes(tde, keystore, os_user_tmp_path, any_binaries):
    missing = os_user_tmp_path / "missing"
    for verb, code in (("status", 4), ("start", 4), ("stop", 4)):
        result = tde("pg", verb, "-D", missing, exit_code=code)
        assert "is not a PostgreSQL data directory" in result.stderr
        assert "HINT: " in result.stderr
        assert "Traceback" not in result.stderr
    assert "no keystore was named" in tde("pg", "init", "-D", missing, exit_code=1).stderr
    tde("pg", "init", "-D", missing, "-k", keystore, "--aes", 192, exit_code=2)
    tde("pg", "init", "-D", missing, "-k", keystore, "--scope", "nothing", exit_code=2)
    wrong = ["--passphrase-command", "echo not the passphrase"]
    tde("pg", "init", "-D", missing, "-k", keystore, *wrong, exit_code=5)
    assert not missing.exists()
    tde("psql", "-D", missing, exit_code=4)
    refused = tde("pg", "init", "-D", missing, "-k", keystore, "--bindir", "/nowhere", exit_code=1)
    assert "--bindir" in refused.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can create such a directory")
def test_unreachable_places_are_named(tde, keystore, tmp_path):
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    result = tde("pg", "init", "-D", closed / "data", "-k", keystore, exit_code=1)
    assert "cannot be reached by" in result.stderr
    moved = closed / "keystore"
    shutil.move(keystore, moved)
    result = tde("pg", "init", "-D", "/tmp/tde-test-never", "-k", moved, exit_code=1)
    assert str(moved) in result.stderr
    assert not Path("/tmp/tde-test-never").exists()


def test_exec_gives_other_programs_no_keys(tde, encrypted_cluster_factory, any_binaries):
    made = encrypted_cluster_factory(any_binaries)
    parameters = made.cluster.connection_parameters()
    # No source of a passphrase is given: psql runs without, and its children find nothing.
    shown = tde(
        *("pg", "exec", "-D", made.data_directory, "psql", "-X", "-h", parameters["host"]),
        *("-p", parameters["port"], "-U", parameters["user"], "-d", "postgres"),
        *("-c", r"\! env; ls -l /proc/self/fd"),
    )
    assert "PATH=" in shown.stdout
    assert "LD_PRELOAD" not in shown.stdout
    assert "TDE_IO" not in shown.stdout
    assert "memfd" not in shown.stdout
    # A library user that passes the keys for psql does not leak them either.
    run = run_program(
        any_binaries,
        "psql",
        ["-X", "-h", "/nowhere", "-c", r"\q"],
        keystore=made.keystore,
        os_user=made.cluster.os_user,
        environment={"LD_DEBUG": "libs"},
    )
    assert "libpq" in run.stderr
    assert "libtde_io.so" not in run.stderr


def test_a_damaged_record_of_a_dropped_tablespace_does_not_stop_the_cluster(
    tde, encrypted_cluster_factory, any_binaries
):
    made = encrypted_cluster_factory(any_binaries, start=False)
    made.keystore.create_key(KeyOwner.tablespace(99999), Algorithm.AES256)
    (made.keystore.path / "keys" / "99999.key").write_bytes(b"damaged")
    options = f"{SERVER_OPTIONS} -c unix_socket_directories={made.data_directory.parent}"
    started = tde("pg", "start", "-D", made.data_directory, "--passphrase-fd", 0, "-o", options)
    assert "99999.key" in started.stderr


def test_a_keystore_that_is_missing_is_not_made_anew(
    any_binaries, encrypted_cluster_factory, tde_command
):
    """A new keystore would not open the cluster: the file system of its own is not mounted."""
    made = encrypted_cluster_factory(any_binaries)
    made.cluster.stop()
    keystore = made.keystore.path
    keystore.rename(keystore.with_name("elsewhere"))
    refused = tde_command(
        "pg", "start", "-D", made.data_directory, "--passphrase-fd", "0", exit_code=5
    )
    keystore.with_name("elsewhere").rename(keystore)
    assert f"there is no keystore at {keystore}" in refused.stderr
    assert "Mount its file system" in refused.stderr
    assert f"tde keystore restore BACKUP --keystore {keystore}" in refused.stderr
    assert "keystore create" not in refused.stderr
