"""What trials lost data with, each done again: races, torn pages, a keystore that is away."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import psycopg2
import pytest

from tde.algorithms import Algorithm
from tde.postgres import Scope, create_tablespace, list_tablespaces
from tests.keystore.cheap_passphrase import PASSPHRASE
from tests.postgres.cluster_copies import base_backup, make_directory, open_copy

TDE = Path(sys.executable).with_name("tde")
ROWS = 1000


class Impatient(threading.Thread):
    """A session that repeats CREATE TABLE in a new tablespace until it works."""

    def __init__(self, made) -> None:
        super().__init__()
        self.made = made
        self.stop = threading.Event()
        self.acknowledged = 0

    def run(self) -> None:
        while not self.stop.is_set() and not self.acknowledged:
            with suppress(psycopg2.Error):
                self.made.query(
                    "CREATE TABLE t TABLESPACE space AS "
                    f"SELECT g, 'precious ' || g AS x FROM generate_series(1, {ROWS}) g"
                )
                self.acknowledged = ROWS
            time.sleep(0.005)


def tde(made, directory: Path, *arguments: str) -> subprocess.Popen[str]:
    """Start ``tde tablespace`` as an operator would."""
    secret = directory / "passphrase"
    if not secret.exists():
        secret.write_bytes(PASSPHRASE)
        secret.chmod(0o600)
    verb, *rest = arguments
    return subprocess.Popen(
        [
            *(str(TDE), "tablespace", verb, "space", "-D", str(made.data_directory)),
            *("--passphrase-file", str(secret), *rest),
        ],
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


@pytest.mark.parametrize("interrupted", [False, True], ids=["to-its-end", "ctrl-c"])
@pytest.mark.parametrize("scope", Scope)
def test_what_a_session_stores_while_a_tablespace_is_made_stays(
    any_binaries, encrypted_cluster_factory, os_user_tmp_path, scope, interrupted
):
    made = encrypted_cluster_factory(any_binaries, scope=scope)
    session = Impatient(made)
    session.start()
    command = tde(made, os_user_tmp_path, "create", "--location", str(os_user_tmp_path / "space"))
    if interrupted:
        # Only then can the session store rows that could be lost.
        while command.poll() is None and not session.acknowledged:
            time.sleep(0.001)
        command.send_signal(signal.SIGINT)
    command.communicate(timeout=300)
    if any(space.name == "space" for space in list_tablespaces(made.cluster, None)):
        session.join(120)
    session.stop.set()
    session.join()
    assert interrupted or session.acknowledged == ROWS
    made.cluster.restart(made.keystore)
    if session.acknowledged:
        assert made.query("SELECT count(*) FROM t WHERE x LIKE 'precious%'") == [(ROWS,)]


def test_a_base_backup_of_any_age_opens_with_the_keystore_of_today(
    any_binaries, encrypted_cluster_factory, os_user_tmp_path
):
    made = encrypted_cluster_factory(any_binaries)
    location = make_directory(made, os_user_tmp_path / "space")
    made.query(f"CREATE TABLESPACE space LOCATION '{location}'")
    made.query("CREATE TABLE t TABLESPACE space AS SELECT generate_series(1, 1000) AS g")
    backup = os_user_tmp_path / "backup"
    moved = os_user_tmp_path / "moved"
    base_backup(made, backup, "--wal-method=fetch", f"--tablespace-mapping={location}={moved}")
    made.query("DROP TABLE t")
    made.query("CHECKPOINT")
    # Once it gave the emptied tablespace another key, with which the backup cannot be read.
    command = tde(made, os_user_tmp_path, "protect")
    _, errors = command.communicate(timeout=300)
    assert command.returncode == 1
    assert "it gave a key to a tablespace that had files already" in errors
    create_tablespace(
        made.cluster, made.keystore, "other", os_user_tmp_path / "other", Algorithm.AES256
    )
    made.query("CREATE TABLE t TABLESPACE space AS SELECT generate_series(1, 7) AS g")
    restored = open_copy(encrypted_cluster_factory, made, backup, made.keystore)
    restored.start()
    assert restored.query("SELECT count(*) FROM t") == [(1000,)]
    made.cluster.restart(made.keystore)
    assert made.query("SELECT count(*) FROM t") == [(7,)]


def test_a_torn_first_page_is_restored_from_wal(
    binaries_older_slow, encrypted_cluster_factory, os_user_tmp_path
):
    """A power failure keeps the second half of the only page of a tablespace made in SQL."""
    made = encrypted_cluster_factory(binaries_older_slow, options={"autovacuum": "off"})
    location = make_directory(made, os_user_tmp_path / "space")
    made.query(f"CREATE TABLESPACE space LOCATION '{location}'")
    made.query("CREATE TABLE t (g int) TABLESPACE space")
    path = made.data_directory / made.query("SELECT pg_relation_filepath('t')")[0][0]
    made.query("CHECKPOINT")
    made.query("INSERT INTO t SELECT generate_series(1, 50)")
    made.cluster.stop("immediate")
    path.write_bytes(bytes(4096) + os.urandom(4096))
    made.start()
    assert made.query("SELECT count(*) FROM t") == [(50,)]


def test_a_running_server_does_not_need_its_keystore(
    any_binaries, encrypted_cluster_factory, os_user_tmp_path
):
    made = encrypted_cluster_factory(any_binaries)
    location = make_directory(made, os_user_tmp_path / "derived")
    made.query(f"CREATE TABLESPACE derived LOCATION '{location}'")
    create_tablespace(
        made.cluster, made.keystore, "named", os_user_tmp_path / "named", Algorithm.AES128
    )
    for space in ("derived", "named"):
        made.query(f"CREATE TABLE {space} TABLESPACE {space} AS SELECT 1 AS x")
        made.query(f"CREATE TABLE lost_{space} TABLESPACE {space} AS SELECT 1 AS x")
    made.cluster.restart(made.keystore)
    away = made.keystore.path.with_name("away")
    made.keystore.path.rename(away)
    try:
        for space in ("derived", "named"):
            assert made.query(f"SELECT count(*) FROM {space}") == [(1,)]
            made.query(f"CREATE TABLE new_{space} TABLESPACE {space} AS SELECT 1 AS x")
            made.query(f"DROP TABLE lost_{space}")
        made.query("CHECKPOINT")
        # Whoever crashes now recovers without it, too.
        os.kill(
            made.query("SELECT pid FROM pg_stat_activity WHERE backend_type = 'background writer'")[
                0
            ][0],
            signal.SIGKILL,
        )
        deadline = time.monotonic() + 60
        while True:
            try:
                assert made.query("SELECT count(*) FROM new_named") == [(1,)]
                break
            except psycopg2.OperationalError:
                assert time.monotonic() < deadline
                time.sleep(0.1)
    finally:
        away.rename(made.keystore.path)


@pytest.mark.parametrize("count", [1030, pytest.param(3000, marks=pytest.mark.slow)])
def test_tablespaces_come_and_go_as_often_as_they_like(
    any_binaries, encrypted_cluster_factory, os_user_tmp_path, count
):
    made = encrypted_cluster_factory(any_binaries)
    location = make_directory(made, os_user_tmp_path / "space")
    stays = make_directory(made, os_user_tmp_path / "stays")
    made.query(f"CREATE TABLESPACE stays LOCATION '{stays}'")
    made.query("CREATE TABLE t TABLESPACE stays AS SELECT 1 AS x")
    connection = psycopg2.connect(**made.cluster.connection_parameters())
    connection.autocommit = True
    with connection.cursor() as cursor:
        for _ in range(count):
            cursor.execute(f"CREATE TABLESPACE space LOCATION '{location}'")
            cursor.execute("DROP TABLESPACE space")
        cursor.execute(f"CREATE TABLESPACE space LOCATION '{location}'")
        cursor.execute("CREATE TABLE last TABLESPACE space AS SELECT 2 AS x")
    connection.close()
    made.cluster.stop("immediate")
    made.start()  # Recovery makes and removes them all again.
    assert made.query("SELECT x FROM last UNION ALL SELECT x FROM t") == [(2,), (1,)]
    shutil.rmtree(location, ignore_errors=True)
