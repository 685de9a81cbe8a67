"""Servers that start unattended and closed: level wal."""

from __future__ import annotations

import json
from pathlib import Path

import psycopg2
import pytest

from tde.algorithms import Algorithm
from tde.keystore import read_key_log
from tde.keystore.auto_opening import bind_auto_open
from tde.postgres import create_tablespace
from tests.conftest import RunningCluster

SECRET = ("--passphrase-fd", "0")
LOCAL = "-c listen_addresses="


@pytest.fixture
def made(any_binaries, encrypted_cluster_factory, os_user_tmp_path: Path) -> RunningCluster:
    made: RunningCluster = encrypted_cluster_factory(any_binaries)
    location = os_user_tmp_path / "space"
    create_tablespace(made.cluster, made.keystore, "secret", location, Algorithm.AES256)
    made.query("CREATE TABLE hidden TABLESPACE secret AS SELECT 1 AS n")
    made.query("CREATE TABLE open AS SELECT 1 AS n")
    made.cluster.stop()
    return made


def is_hidden(made: RunningCluster) -> bool:
    assert made.query("SELECT n FROM open") == [(1,)]
    try:
        made.query("SELECT n FROM hidden")
    except psycopg2.Error as error:
        if "Required key not available" in str(error):
            return True
        raise
    return False


def test_level_wal_starts_a_server_that_a_person_opens(
    made: RunningCluster, tde_command, os_user_tmp_path: Path, os_user
) -> None:
    data, secret = made.data_directory, os_user_tmp_path / "host.key"
    bind_auto_open(made.keystore, "host-secret", {"file": str(secret)}, "wal")
    if os_user is not None:
        assert secret.stat().st_uid == os_user.uid
    # The tests' commands have no terminal and no variables of a login, as those of systemd.
    started = tde_command("pg", "start", "-D", data, "-o", LOCAL)
    assert f"closed for sessions: tde keystore open -D {data}" in started.stderr
    assert is_hidden(made)
    status = json.loads(tde_command("pg", "status", "-D", data, "--json").stdout)
    assert status["closed"] is True
    assert status["auto_open"] == [f"bound to host-secret file={secret}, level wal"]
    # What has started it does not open it, nor do the tools that would give plaintext.
    for command in (
        ("keystore", "open", "-D", data),
        ("pg", "audit", "-D", data),
    ):
        said = tde_command(*command, exit_code=None).stderr
        assert "level wal" in said, command
    assert is_hidden(made)
    tde_command("keystore", "open", "-D", data, *SECRET)
    assert not is_hidden(made)
    # It takes away without a passphrase, and a restart is a start.
    tde_command("keystore", "close", "-D", data)
    assert is_hidden(made)
    tde_command("pg", "restart", "-D", data)
    assert is_hidden(made)
    tde_command("pg", "stop", "-D", data)
    # Without the secret there is no start, and the passphrase gives all.
    secret.rename(secret.with_name("gone"))
    refused = tde_command("pg", "start", "-D", data, "-o", LOCAL, exit_code=None)
    assert refused.returncode != 0
    assert "host.key cannot be read" in refused.stderr
    tde_command("pg", "start", "-D", data, "-o", LOCAL, *SECRET)
    assert not is_hidden(made)
    means = [entry.details.get("with") for entry in read_key_log(made.keystore.path).entries]
    assert "provider auto-open (host-secret)" in means
