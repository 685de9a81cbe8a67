"""A plain pair is encrypted, and an encrypted one gets other keys, while one of the two serves."""

from __future__ import annotations

import json
import shlex
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg2
import pytest

from tde.errors import TdeError
from tests.conftest import RunningCluster
from tests.postgres.cluster_copies import open_copy
from tests.replication.test_keys_on_standbys import wait_for, wait_until_replayed
from tests.replication.test_standby_commands import OPTIONS, QUIET, conninfo, is_standby

SECRET = ("--passphrase-fd", "0")
CANARY = "canary-of-the-migration"
# What asks for the passphrase.
WITH_KEYS = {"keystore", "encrypt", "start", "rekey", "switchover", "audit"}


class Writer:
    """A client that writes all the time, and knows what was acknowledged."""

    def __init__(self, nodes: list[RunningCluster]) -> None:
        self.nodes = nodes
        self.acknowledged: list[int] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run)

    @contextmanager
    def writing(self) -> Iterator[None]:
        self._thread.start()
        try:
            yield
        finally:
            self._ended.set()
            self._thread.join()

    def _run(self) -> None:
        number = 0
        while not self._ended.wait(0.02):
            number += 1
            for node in self.nodes:
                try:
                    node.query("INSERT INTO written VALUES (%s)", (number,))
                except (psycopg2.Error, TdeError):  # It is down, or a standby.
                    continue
                self.acknowledged.append(number)
                break


def plan_of(primary: RunningCluster, standby: RunningCluster, keystore: Path, tde: Any) -> Any:
    shown = tde(
        *("pg", "migrate", "--plan", "-D", standby.data_directory, "-k", keystore),
        *("--primary-pgdata", primary.data_directory, "--to", conninfo(standby), "--json"),
        *("--bindir", primary.cluster.binaries.bindir),
    )
    return json.loads(shown.stdout)


def run_plan(steps: Any, tde: Any) -> None:
    for step in steps:
        words = shlex.split(step["command"])[1:]
        secret = SECRET if WITH_KEYS & set(words[:2]) else ()
        if words[0] == "replication":  # Its exit code is 1 until it receives.
            wait_for(lambda words=words: tde(*words, exit_code=None).returncode == 0)
        else:
            tde(*words, *secret)


def test_a_plain_pair_is_encrypted_without_a_stop(
    binaries, encrypted_cluster_factory, os_user_tmp_path, tde_command
) -> None:
    # Neither checksums nor wal_log_hints: nothing is rewound.
    primary = encrypted_cluster_factory.plain(binaries, options=OPTIONS, data_checksums=False)
    primary.query(f"CREATE TABLE written AS SELECT 0 AS n, '{CANARY}' AS c")
    directory = os_user_tmp_path / "standby"
    tde_command(
        *("pg", "standby", directory, "--primary", conninfo(primary), "--slot", "second"),
        *("--sync", "--bindir", binaries.bindir, "-o", QUIET),
    )
    standby = open_copy(encrypted_cluster_factory, primary, directory, None)
    keystore = os_user_tmp_path / "keystore"
    steps = plan_of(primary, standby, keystore, tde_command)
    machines = [step["machine"] for step in steps]
    assert machines == ["primary", *["standby"] * 6, *["primary"] * 2, *["standby"] * 2]
    writer = Writer([primary, standby])
    with writer.writing():
        run_plan(steps, tde_command)
    assert not is_standby(standby)
    assert is_standby(primary)
    wait_until_replayed(standby, primary)
    for node in (standby, primary):
        found = {n for (n,) in node.query("SELECT n FROM written")}
        assert set(writer.acknowledged) <= found
    assert len(writer.acknowledged) > 50
    wait_for(lambda: standby.query("SELECT sync_state FROM pg_stat_replication") == [("sync",)])
    (old,) = primary.data_directory.parent.glob(f"{primary.data_directory.name}.before-*")
    assert any(CANARY.encode() in path.read_bytes() for path in old.rglob("base/*/*"))
    for node in (standby, primary):
        for path in node.data_directory.rglob("base/*/*"):
            assert CANARY.encode() not in path.read_bytes(), path


def test_an_encrypted_pair_gets_other_keys(
    binaries, encrypted_cluster_factory, os_user_tmp_path, tde_command
) -> None:
    primary = encrypted_cluster_factory(binaries, options=OPTIONS)
    primary.query("CREATE TABLE written AS SELECT 0 AS n")
    directory = os_user_tmp_path / "standby"
    keystore = primary.keystore.path
    tde_command(
        *("pg", "standby", directory, "--primary", conninfo(primary), "--keystore", keystore),
        *("--bindir", binaries.bindir, "-o", QUIET, *SECRET),
    )
    standby = open_copy(encrypted_cluster_factory, primary, directory, primary.keystore)
    before = (primary.data_directory / "tde.keymap").read_bytes()
    run_plan(plan_of(primary, standby, keystore, tde_command), tde_command)
    assert is_standby(primary)
    maps = [(node.data_directory / "tde.keymap").read_bytes() for node in (primary, standby)]
    assert maps[0] == maps[1] != before
    standby.query("INSERT INTO written VALUES (1)")
    wait_until_replayed(standby, primary)
    assert primary.query("SELECT n FROM written ORDER BY 1") == [(0,), (1,)]


def test_what_is_no_standby_is_left_alone(
    any_binaries, encrypted_cluster_factory, os_user_tmp_path, tde_command
) -> None:
    made = encrypted_cluster_factory.plain(any_binaries)
    words = ("pg", "migrate", "-D", made.data_directory, "-k", os_user_tmp_path / "k")
    done = tde_command(*words, "--to", "port=1", "--plan", exit_code=1)
    assert "is no standby" in " ".join(done.stderr.split())
    tde_command(*words, "--to", "port=1", exit_code=2)


@pytest.mark.parametrize("command", ["rejoin", "switchover"])
def test_pages_of_the_two_never_meet(
    command: str, any_binaries, encrypted_cluster_factory, os_user_tmp_path, tde_command
) -> None:
    """The accident: pg_rewind between a plain server and an encrypted one."""
    options = {**OPTIONS, "wal_log_hints": "on"}
    primary = encrypted_cluster_factory.plain(any_binaries, options=options)
    directory = os_user_tmp_path / "standby"
    tde_command(
        *("pg", "standby", directory, "--primary", conninfo(primary)),
        *("--bindir", any_binaries.bindir, "-o", QUIET),
    )
    standby = open_copy(encrypted_cluster_factory, primary, directory, None)
    keystore = os_user_tmp_path / "keystore"
    run_plan(plan_of(primary, standby, keystore, tde_command)[:6], tde_command)
    if command == "switchover":
        words: tuple[object, ...] = ("switchover", "-D", primary.data_directory, "--to")
    else:
        primary.cluster.stop()
        tde_command("pg", "promote", "-D", directory)
        words = ("rejoin", "-D", primary.data_directory, "--primary")
    refused = tde_command("pg", *words, conninfo(standby), exit_code=5)
    assert "noise" in " ".join(refused.stderr.split())
    assert (primary.cluster.pid is not None) == (command == "switchover")


@pytest.mark.parametrize("file", ["patroni.dynamic.json", "postgresql.conf"])
def test_a_cluster_manager_has_to_let_go_first(
    file: str, any_binaries, encrypted_cluster_factory, os_user_tmp_path, tde_command
) -> None:
    """The accident: it starts what was stopped, and there are two primaries."""
    made = encrypted_cluster_factory.plain(any_binaries, start=False)
    (made.data_directory / "standby.signal").touch()
    with (made.data_directory / file).open("a") as opened:
        opened.write("include '/var/lib/pgsql/tmp/rep_mode.conf'\n")
    words = ("pg", "migrate", "--plan", "-D", made.data_directory, "-k", os_user_tmp_path / "k")
    refused = tde_command(*words, "--to", "port=1", exit_code=1)
    assert "--manager-paused" in refused.stderr
    assert "install-bin" in tde_command(*words, "--to", "port=1", "--manager-paused").stdout


def test_a_base_backup_that_fails_leaves_no_second_primary(
    any_binaries, encrypted_cluster_factory, os_user_tmp_path, tde_command
) -> None:
    """The accident: the next boot starts what was put back."""
    primary = encrypted_cluster_factory.plain(any_binaries, options=OPTIONS)
    directory = os_user_tmp_path / "standby"
    tde_command(
        *("pg", "standby", directory, "--primary", conninfo(primary)),
        *("--bindir", any_binaries.bindir, "-o", QUIET),
    )
    standby = open_copy(encrypted_cluster_factory, primary, directory, None)
    primary.cluster.stop()
    tde_command("pg", "promote", "-D", directory)
    # One connection is let in, and a base backup with its WAL has two.
    standby.cluster.stop()
    standby.start({"max_wal_senders": "1"})
    before = {path.name for path in primary.data_directory.iterdir()}
    words = ("pg", "rejoin", "-D", primary.data_directory, "--base-backup", "--primary")
    failed = tde_command(*words, conninfo(standby), exit_code=1)
    assert "--base-backup" in failed.stderr
    after = {path.name for path in primary.data_directory.iterdir()}
    assert after == before | {"standby.signal"}
