"""No standby meets a key that it does not have: commands ask the connected ones first."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg2
import psycopg2.extras
import pytest
from psycopg2.extensions import make_dsn

from tde.algorithms import Algorithm
from tde.errors import ReplicationError
from tde.postgres import create_tablespace
from tde.postgres.cluster.standbys import NOTES, connected_standbys
from tests.keystore.cheap_passphrase import PASSPHRASE
from tests.postgres.cluster_copies import open_copy
from tests.replication.test_keys_on_standbys import wait_for, wait_until_replayed
from tests.replication.test_standby_commands import QUIET, Pair, conninfo, is_standby, pair

__all__ = ["pair"]

TDE = Path(sys.executable).with_name("tde")
SECRET = ("--passphrase-fd", "0")
MOST = 500  # c_ext/interpose/keys/present.h


def words(done: subprocess.CompletedProcess[str]) -> str:
    return " ".join((done.stdout + done.stderr).split())


def streams(made: Pair) -> bool:
    return bool(made.primary.query("SELECT 1 FROM pg_stat_replication WHERE state = 'streaming'"))


@pytest.fixture
def follower(pair: Pair) -> Pair:
    """The pair, with a standby that has a keystore of its own and streams."""
    pair.make("--slot", "second")
    wait_until_noted(pair)
    return pair


def wait_until_noted(made: Pair) -> None:
    """Wait until the standby streams, and WAL was sent to it, with which its words are noted."""
    made.primary.query("INSERT INTO t VALUES (0)")
    wait_for(lambda: any(one.has_note for one in connected_standbys(made.primary.cluster)))


def run_remedy(made: Pair, text: str, *command: object) -> str:
    """Do what a refusal says, and return what the command says then."""
    found = re.search(r"(tde keystore sync .*?); .*the command with (--key \w+)", text)
    assert found is not None, text
    made.tde(*shlex.split(found[1])[1:], *SECRET)
    return words(made.tde(*command, *found[2].split()))


def test_a_tablespace_waits_for_the_standbys(follower: Pair, os_user_tmp_path: Path) -> None:
    """The accident: a standby that stops at CREATE TABLESPACE, hours from anybody."""
    location = os_user_tmp_path / "space"
    create = (
        *("tablespace", "create", "space", "-D", follower.primary.data_directory),
        *("--location", location, *SECRET),
    )
    refused = words(follower.tde(*create, exit_code=1))
    assert "lacks it" in refused
    assert f"tde keystore sync {follower.copy}" in refused
    assert follower.primary.query("SELECT 1 FROM pg_tablespace WHERE spcname = 'space'") == []
    assert not location.exists()

    assert "Created tablespace space" in run_remedy(follower, refused, *create)
    follower.primary.query("CREATE TABLE s TABLESPACE space AS SELECT 7 AS n")
    wait_until_replayed(follower.primary, follower.standby)
    assert follower.standby.query("SELECT n FROM s") == [(7,)]


def test_wal_waits_for_the_standbys(follower: Pair) -> None:
    rotate = ("wal", "rotate", "-D", follower.primary.data_directory, *SECRET)
    refused = words(follower.tde(*rotate, exit_code=1))
    assert "lacks it" in refused
    key_id = re.search(r"--key ([0-9a-f]{32})", refused)
    assert key_id is not None
    assert "WAL key 2" in run_remedy(follower, refused, *rotate)
    again = words(follower.tde(*rotate, "--key", key_id[1], exit_code=5))
    assert "not used yet" in again
    follower.primary.query("INSERT INTO t VALUES (2)")
    wait_until_replayed(follower.primary, follower.standby)


def test_who_knows_better_need_not_wait(follower: Pair, os_user_tmp_path: Path) -> None:
    create = ("tablespace", "create", "space", "-D", follower.primary.data_directory)
    done = follower.tde(*create, "--location", os_user_tmp_path / "space", "--no-wait", *SECRET)
    assert "Created tablespace space" in done.stdout
    assert "stops until it has the key" in words(done)


def test_a_keystore_that_is_used_by_both_needs_nothing(pair: Pair, os_user_tmp_path: Path) -> None:
    """The standby says again what it has: when it connected, the key was not there."""
    assert pair.primary.keystore is not None
    pair.copy = pair.primary.keystore.path
    pair.make("--slot", "second")
    wait_for(lambda: streams(pair))
    before = pair.primary.query("SELECT pid FROM pg_stat_replication")
    location = os_user_tmp_path / "space"
    create_tablespace(
        pair.primary.cluster, pair.primary.keystore, "space", location, Algorithm.AES128
    )
    assert pair.primary.query("SELECT pid FROM pg_stat_replication") != before
    pair.primary.query("CREATE TABLE s TABLESPACE space AS SELECT 7 AS n")
    wait_until_replayed(pair.primary, pair.standby)
    assert pair.standby.query("SELECT n FROM s") == [(7,)]
    assert is_standby(pair.standby)


def test_an_older_keystore_is_seen_when_it_connects(follower: Pair, os_user_tmp_path: Path) -> None:
    """The accident: found at the first read, which is after the failover."""
    follower.standby.cluster.stop()
    assert follower.primary.keystore is not None
    location = os_user_tmp_path / "space"
    made = create_tablespace(
        follower.primary.cluster,
        follower.primary.keystore,
        "space",
        location,
        Algorithm.AES256,
        wait=False,
    )
    assert made.key_file is not None
    status = ("replication", "status", "-D", follower.primary.data_directory)
    assert json.loads(follower.tde(*status, "--json").stdout)["standbys"] == []

    log = follower.primary.cluster.default_log
    before = log.read_text().count("lacks 1 of the keys")
    # It stops where it replays the statement; what counts is that its primary has said so.
    start = ("pg", "start", "-D", str(follower.standby.data_directory), *SECRET)
    subprocess.run([TDE, *start], input=PASSPHRASE, check=False, capture_output=True)
    wait_for(lambda: log.read_text().count("lacks 1 of the keys") > before)
    assert made.key_file.removesuffix(".key") in log.read_text()


def connect_again(made: Pair) -> None:
    """End the walsender, and wait until the standby has said again what it has."""
    ((before,),) = made.primary.query("SELECT pid FROM pg_stat_replication")
    made.primary.query(f"SELECT pg_terminate_backend({before})")
    query = f"SELECT 1 FROM pg_stat_replication WHERE pid <> {before} AND state = 'streaming'"
    wait_for(lambda: made.primary.query(query))
    wait_until_noted(made)


def test_the_status_names_the_keys_that_a_standby_lacks(
    follower: Pair, os_user_tmp_path: Path
) -> None:
    status = ("replication", "status", "-D", follower.primary.data_directory)
    well = json.loads(follower.tde(*status, "--json").stdout)
    assert [one["lacks_keys"] for one in well["standbys"]] == [[]]
    assert well["is_well"]
    assert "They have all keys" in words(follower.tde(*status))
    # The standby's server still has what it read; its copy has lost a file.
    (gone,) = (follower.copy / "keys").glob("1663.key")
    gone.rename(follower.copy.with_name("1663.key"))
    connect_again(follower)
    ill = follower.tde(*status, "--json", exit_code=1)
    assert [one["lacks_keys"] for one in json.loads(ill.stdout)["standbys"]] == [["1663.key"]]
    assert "lacks 1663.key" in words(follower.tde(*status, exit_code=1))


def test_one_that_does_not_say_is_not_believed(pair: Pair, os_user_tmp_path: Path) -> None:
    """A standby of an earlier release says only that it encrypts."""
    parameters: dict[str, Any] = pair.primary.cluster.connection_parameters()
    keystore = pair.primary.keystore
    assert keystore is not None
    ((lsn,),) = pair.primary.query("SELECT pg_current_wal_lsn()")
    client: Any = psycopg2.connect(
        make_dsn(**parameters),
        connection_factory=psycopg2.extras.PhysicalReplicationConnection,
        options=f"-c tde.streamed_wal=encrypted -c tde.keystore={keystore.uuid}",
    )
    with closing(client), client.cursor() as cursor:
        cursor.start_replication(start_lsn=lsn, timeline=1)
        wait_for(lambda: streams(pair) or cursor.read_message() is not None)
        with pytest.raises(ReplicationError, match="does not say which keys it has"):
            create_tablespace(
                pair.primary.cluster,
                keystore,
                "space",
                os_user_tmp_path / "space",
                Algorithm.AES256,
            )


def test_who_stores_wal_is_not_disturbed(pair: Pair, os_user_tmp_path: Path) -> None:
    """pg_receivewal replays nothing; a base backup of hours would end."""
    assert pair.primary.keystore is not None
    directory = os_user_tmp_path / "wal"
    directory.mkdir()
    user = pair.primary.cluster.os_user
    if user is not None:
        directory.chmod(0o777)
    receiver = subprocess.Popen(
        [
            *(TDE, "pg", "exec", "-D", str(pair.primary.data_directory), *SECRET, "--"),
            *("pg_receivewal", "-D", str(directory), "-h"),
            str(pair.primary.cluster.connection_parameters()["host"]),
            *("-p", str(pair.primary.cluster.connection_parameters()["port"])),
        ],
        stdin=subprocess.PIPE,
    )
    try:
        assert receiver.stdin is not None
        receiver.stdin.write(PASSPHRASE)
        receiver.stdin.close()
        wait_for(lambda: streams(pair))
        before = pair.primary.query("SELECT pid FROM pg_stat_replication")
        create_tablespace(
            pair.primary.cluster,
            pair.primary.keystore,
            "space",
            os_user_tmp_path / "space",
            Algorithm.AES256,
        )
        assert pair.primary.query("SELECT pid FROM pg_stat_replication") == before
    finally:
        receiver.terminate()
        receiver.wait()


def test_who_gets_rows_needs_no_keys(
    any_binaries, encrypted_cluster_factory, os_user_tmp_path: Path
) -> None:
    """The accident: a logical subscriber was taken for a standby, waited for and ended."""
    made = encrypted_cluster_factory(any_binaries, options={"wal_level": "logical"})
    made.query("SELECT pg_create_logical_replication_slot('rows', 'test_decoding')")
    parameters = made.cluster.connection_parameters()
    subscriber = subprocess.Popen(
        [
            *(any_binaries.program("pg_recvlogical"), "-d", "postgres", "--slot", "rows"),
            *("-h", str(parameters["host"]), "-p", str(parameters["port"])),
            *("-U", str(parameters["user"]), "--start", "-f", str(os_user_tmp_path / "rows")),
        ]
    )
    try:
        wait_for(lambda: made.query("SELECT 1 FROM pg_stat_replication") == [(1,)])
        before = made.query("SELECT pid FROM pg_stat_replication")
        create_tablespace(
            made.cluster, made.keystore, "space", os_user_tmp_path / "space", Algorithm.AES256
        )
        assert made.query("SELECT pid FROM pg_stat_replication") == before
    finally:
        subscriber.terminate()
        subscriber.wait()


def test_a_list_that_is_too_long_begins_with_the_newest(pair: Pair, os_user_tmp_path: Path) -> None:
    """A keystore with more keys than a standby can say: a new key is among those that it does."""
    assert pair.primary.keystore is not None
    for _ in range(MOST + 20):
        pair.primary.keystore.create_named_key(Algorithm.AES128)
    pair.tde("keystore", "sync", pair.copy, "-k", pair.primary.keystore.path, *SECRET)
    pair.make("--slot", "second")
    wait_until_noted(pair)
    (standby,) = connected_standbys(pair.primary.cluster)
    assert not standby.is_complete
    assert standby.keys is not None
    assert len(standby.keys) == MOST
    create = (
        *("tablespace", "create", "space", "-D", pair.primary.data_directory),
        *("--location", os_user_tmp_path / "space", *SECRET),
    )
    refused = words(pair.tde(*create, exit_code=1))
    assert "lacks it" in refused
    assert "Created tablespace space" in run_remedy(pair, refused, *create)


def test_a_slot_that_nobody_is_connected_to_counts(follower: Pair, os_user_tmp_path: Path) -> None:
    """The accident: the standby was down for an hour, and stops when it is back."""
    follower.standby.cluster.stop()
    create = (
        *("tablespace", "create", "space", "-D", follower.primary.data_directory),
        *("--location", os_user_tmp_path / "space", *SECRET),
    )
    refused = words(follower.tde(*create, exit_code=1))
    assert "nobody is connected to the replication slot second" in refused
    key = re.search(r"--key ([0-9a-f]{32})", refused)
    assert key is not None
    follower.tde(
        *("keystore", "sync", follower.copy, "-k", follower.primary.keystore.path, *SECRET)  # type: ignore[union-attr]
    )
    done = follower.tde(*create, "--key", key[1], "--no-wait")
    assert "Created tablespace space" in done.stdout


def test_a_plain_pair_has_no_keys_to_lack(
    any_binaries: Any, encrypted_cluster_factory: Any, os_user_tmp_path: Path, tde_command: Any
) -> None:
    primary = encrypted_cluster_factory.plain(any_binaries)
    directory = os_user_tmp_path / "standby"
    tde_command(
        *("pg", "standby", directory, "--primary", conninfo(primary)),
        *("--bindir", any_binaries.bindir, "-o", QUIET),
    )
    open_copy(encrypted_cluster_factory, primary, directory, None)
    shown = tde_command("replication", "status", "-D", primary.data_directory)
    assert "keys" not in shown.stdout


def test_notes_of_walsenders_that_are_gone_are_removed(follower: Pair) -> None:
    notes = (follower.primary.data_directory / NOTES).parent
    for _ in range(3):
        connect_again(follower)
    wait_for(lambda: len(list(notes.glob("tde.standby.*"))) == 1)


def test_another_process_of_the_same_number_says_nothing(follower: Pair) -> None:
    (standby,) = connected_standbys(follower.primary.cluster)
    assert standby.keys is not None
    note = follower.primary.data_directory / f"{NOTES}{standby.pid}"
    note.write_text(re.sub(r"started=\d+", "started=1", note.read_text()))
    (standby,) = connected_standbys(follower.primary.cluster)
    assert standby.keys is None
