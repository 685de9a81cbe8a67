"""``tde pg standby``, ``promote``, ``rejoin``, ``switchover`` and ``tde replication status``."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from tde.algorithms import Algorithm
from tde.errors import ReplicationError
from tde.postgres import create_tablespace
from tde.replication.remote import remote_server
from tde.replication.source import read_source
from tde.replication.standby import StandbyOptions, require_possible
from tests.conftest import RunningCluster
from tests.postgres.cluster_copies import open_copy
from tests.postgres.crashes.file_rewrites import kill_server
from tests.replication.test_keys_on_standbys import wait_for, wait_until_replayed
from tests.tools.test_patroni import free_ports

Run = Callable[..., subprocess.CompletedProcess[str]]

# The servers of a test have sockets of their own, and no TCP.
QUIET = "-c listen_addresses="
OPTIONS = {"wal_keep_size": "256MB"}


@dataclass
class Pair:
    """A primary, and what makes and changes its standby."""

    primary: RunningCluster
    standby: RunningCluster
    copy: Path
    tde: Run

    def make(self, *options: object, exit_code: int = 0) -> subprocess.CompletedProcess[str]:
        """Run ``tde pg standby``."""
        return self.tde(
            *("pg", "standby", self.standby.data_directory, "--primary", conninfo(self.primary)),
            *("--keystore", self.copy, "--bindir", self.primary.cluster.binaries.bindir),
            *("--passphrase-fd", "0", "-o", QUIET, *options),
            exit_code=exit_code,
        )

    def rejoin(self, node: RunningCluster, *options: object, exit_code: int = 0) -> Any:
        """Run ``tde pg rejoin`` on one of the two."""
        other = self.standby if node is self.primary else self.primary
        return self.tde(
            *("pg", "rejoin", "-D", node.data_directory, "--primary", conninfo(other)),
            *("--passphrase-fd", "0", *options),
            exit_code=exit_code,
        )


def conninfo(made: RunningCluster) -> str:
    parameters = made.cluster.connection_parameters()
    return " ".join(f"{key}={parameters[key]}" for key in ("host", "port", "user"))


def slots(made: RunningCluster) -> list[Any]:
    return made.query("SELECT slot_name, active FROM pg_replication_slots ORDER BY 1")


def is_standby(made: RunningCluster) -> bool:
    return bool(made.query("SELECT pg_is_in_recovery()")[0][0])


def rows(made: RunningCluster) -> list[int]:
    return [n for (n,) in made.query("SELECT n FROM t ORDER BY 1")]


@pytest.fixture
def pair(binaries, encrypted_cluster_factory, os_user_tmp_path, tde_command) -> Pair:
    """A primary, a copy of its keystore, and the directory of a standby that is not there yet."""
    primary = encrypted_cluster_factory(binaries, options=OPTIONS)
    primary.query("CREATE TABLE t AS SELECT 1 AS n")
    backup, copy = os_user_tmp_path / "backup", os_user_tmp_path / "copy"
    tde_command("keystore", "backup", backup, "--keystore", primary.keystore.path)
    tde_command("keystore", "restore", backup, "--keystore", copy)
    directory = os_user_tmp_path / "standby"
    standby = open_copy(encrypted_cluster_factory, primary, directory, primary.keystore)
    return Pair(primary, standby, copy, tde_command)


def test_a_standby_takes_over_and_the_old_primary_follows(pair: Pair) -> None:
    made = pair.make("--slot", "second", "--sync", "--name", "second")
    assert "second" in made.stdout
    assert "does not open by itself" in made.stderr
    pair.primary.query("INSERT INTO t VALUES (2)")
    wait_until_replayed(pair.primary, pair.standby)
    assert rows(pair.standby) == [1, 2]
    wait_for(lambda: slots(pair.primary) == [("second", True)])

    shown = pair.tde("replication", "status", "-D", pair.primary.data_directory, "--json")
    status = json.loads(shown.stdout)
    assert [(one["name"], one["sync_state"]) for one in status["standbys"]] == [("second", "sync")]
    assert status["is_well"]
    followed = pair.tde("replication", "status", "-D", pair.standby.data_directory)
    assert "A standby. It follows" in followed.stdout

    kill_server(pair.primary.cluster.pid)
    promoted = pair.tde("pg", "promote", "-D", pair.standby.data_directory)
    assert "timeline 2" in promoted.stdout
    pair.standby.query("INSERT INTO t VALUES (3)")

    (pair.primary.data_directory / "standby.signal").touch()  # Of a start that has failed.
    pair.rejoin(pair.primary, "--slot", "first")
    assert is_standby(pair.primary)
    wait_until_replayed(pair.standby, pair.primary)
    assert rows(pair.primary) == [1, 2, 3]
    wait_for(lambda: slots(pair.standby) == [("first", True)])


def switch(pair: Pair, old: RunningCluster, new: RunningCluster, exit_code: int = 0) -> str:
    done = pair.tde(
        *("pg", "switchover", "-D", old.data_directory, "--to", conninfo(new)),
        *("--passphrase-fd", "0"),
        exit_code=exit_code,
    )
    return " ".join((done.stdout + done.stderr).split())


def test_switching_there_and_back_loses_nothing(pair: Pair) -> None:
    pair.make("--slot", "second")
    nodes = [pair.primary, pair.standby]
    for number in range(2, 5):
        old, new = nodes
        old.query(f"INSERT INTO t VALUES ({number})")
        switch(pair, old, new)
        assert not is_standby(new)
        assert is_standby(old)
        assert rows(new) == [*range(1, number + 1)]
        # What a standby has of slots keeps its WAL for ever.
        assert slots(old) == []
        nodes.reverse()
    wait_until_replayed(*nodes)
    assert rows(nodes[1]) == [1, 2, 3, 4]


def test_nothing_stops_for_a_standby_that_cannot_take_over(pair: Pair) -> None:
    """The accident: an outage of a minute, and then the old primary again."""
    pair.make()
    started = pair.primary.query("SELECT pg_postmaster_start_time()")
    pair.standby.query("SELECT pg_wal_replay_pause()")
    assert "replay is paused" in switch(pair, pair.primary, pair.standby, exit_code=1)
    pair.standby.query("SELECT pg_wal_replay_resume()")
    pair.primary.query("CREATE ROLE plain LOGIN")
    wait_until_replayed(pair.primary, pair.standby)
    plain = conninfo(pair.standby).rpartition(" user=")[0] + " user=plain"
    refused = pair.tde(
        *("pg", "switchover", "-D", pair.primary.data_directory, "--to", plain),
        *("--passphrase-fd", "0"),
        exit_code=1,
    )
    assert "may not call pg_promote()" in " ".join(refused.stderr.split())
    # Both halves of a split brain: the other one has gone its own way.
    pair.tde("pg", "promote", "-D", pair.standby.data_directory)
    assert "is no standby of" in switch(pair, pair.primary, pair.standby, exit_code=1)
    assert pair.primary.query("SELECT pg_postmaster_start_time()") == started


def test_the_newer_node_is_not_given_up_by_mistake(pair: Pair) -> None:
    """The accident at 3 a.m.: both are up, and the wrong one is rejoined."""
    pair.make()
    pair.tde("pg", "promote", "-D", pair.standby.data_directory)
    pair.standby.query("INSERT INTO t VALUES (2)")
    pair.standby.query("CHECKPOINT")
    pair.tde("pg", "stop", "-D", pair.standby.data_directory)
    refused = pair.rejoin(pair.standby, exit_code=1)
    assert "was promoted later, and would lose all since then" in " ".join(refused.stderr.split())
    pair.tde("pg", "start", "-D", pair.standby.data_directory, "--passphrase-fd", "0", "-o", QUIET)
    assert rows(pair.standby) == [1, 2]
    pair.tde("pg", "stop", "-D", pair.standby.data_directory)
    pair.rejoin(pair.standby, "--to-older-timeline", "--base-backup")
    wait_until_replayed(pair.primary, pair.standby)
    assert rows(pair.standby) == [1]


def test_a_standby_that_crashed_is_not_recovered_as_a_primary(pair: Pair) -> None:
    """The accident: it would write WAL of its own, and never find its place again."""
    pair.make()
    kill_server(pair.standby.cluster.pid)
    refused = pair.rejoin(pair.standby, exit_code=1)
    assert "was a standby when it stopped" in " ".join(refused.stderr.split())
    pair.tde("pg", "start", "-D", pair.standby.data_directory, "--passphrase-fd", "0", "-o", QUIET)
    pair.primary.query("INSERT INTO t VALUES (2)")
    wait_until_replayed(pair.primary, pair.standby)


def test_what_cannot_be_rewound_never_starts_as_a_primary(pair: Pair) -> None:
    pair.make()
    pair.tde("pg", "promote", "-D", pair.standby.data_directory)
    pair.standby.query("INSERT INTO t VALUES (2)")
    pair.tde("pg", "stop", "-D", pair.primary.data_directory)
    # pg_rewind asks for a restore_command, which there is not.
    refused = pair.rejoin(pair.primary, "-c", exit_code=1)
    said = " ".join(refused.stderr.split())
    assert "pg_rewind cannot bring" in said
    assert f"The server in {pair.primary.data_directory} is stopped" in said
    assert (pair.primary.data_directory / "standby.signal").exists()
    # The arguments of its last start are still known.
    pair.rejoin(pair.primary)
    wait_until_replayed(pair.standby, pair.primary)
    assert rows(pair.primary) == [1, 2]


def test_a_primary_is_made_again_and_what_it_had_is_kept(
    pair: Pair, os_user_tmp_path: Path
) -> None:
    location = os_user_tmp_path / "space"
    space = create_tablespace(
        pair.primary.cluster, pair.primary.keystore, "secret", location, Algorithm.AES256
    )
    pair.tde(
        *("keystore", "sync", pair.copy, "-k", pair.primary.keystore.path),
        *("--passphrase-fd", "0"),
    )
    pair.primary.query("CREATE TABLE s TABLESPACE secret AS SELECT 1 AS n")
    other = os_user_tmp_path / "space2"
    pair.make("-T", f"{space.location}={other}")
    pair.tde("pg", "promote", "-D", pair.standby.data_directory)
    pair.primary.query("INSERT INTO t VALUES (100)")  # Nobody gets this.
    pair.standby.query("INSERT INTO t VALUES (2)")
    pair.tde("pg", "stop", "-D", pair.primary.data_directory)
    refused = pair.rejoin(pair.primary, "--primary", "host=/nowhere", exit_code=1)
    assert "does not do what is asked" in refused.stderr
    again = pair.rejoin(pair.primary, "--base-backup", "-T", f"{other}={space.location}")
    aside = [
        *pair.primary.data_directory.parent.glob("*.before-*"),
        *location.glob("*.before-*"),
    ]
    assert len(aside) == 2
    for path in aside:
        assert str(path) in again.stdout.replace("\n", "")
        assert any(path.iterdir())
    wait_until_replayed(pair.standby, pair.primary)
    assert rows(pair.primary) == [1, 2]
    assert pair.primary.query("SELECT n FROM s") == [(1,)]


def test_places_that_are_somebodys_are_left_alone(pair: Pair, os_user_tmp_path: Path) -> None:
    """The accident: -T names a live tablespace, and Ctrl-C removed what was in it."""
    location = os_user_tmp_path / "space"
    space = create_tablespace(
        pair.primary.cluster, pair.primary.keystore, "secret", location, Algorithm.AES256
    )
    pair.tde(
        *("keystore", "sync", pair.copy, "-k", pair.primary.keystore.path),
        *("--passphrase-fd", "0"),
    )
    pair.primary.query("CREATE TABLE s TABLESPACE secret AS SELECT 1 AS n")
    refused = pair.make("-T", f"{space.location}={space.location}", exit_code=1)
    assert "is not empty" in refused.stderr
    pair.primary.query("CHECKPOINT")
    assert pair.primary.query("SELECT n FROM s") == [(1,)]


def test_a_place_that_cannot_be_made_is_refused_before_anything_is_copied(
    pair: Pair, tmp_path: Path
) -> None:
    """The accident: root had made /srv/pg, and pg_basebackup failed after hours.

    Both servers are on this machine, so of a tablespace elsewhere only its name is told.
    """
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o555)
    standby, user = pair.standby.cluster, pair.standby.cluster.os_user
    if user is None and os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    source = read_source(remote_server(conninfo(pair.primary), standby.binaries, user))
    assert source.places == ()
    place = closed / "spaces" / "one"
    options = StandbyOptions("second")
    with pytest.raises(ReplicationError, match="cannot make the directory") as refused:
        require_possible(standby, replace(source, places=(place,)), options)
    assert f"-m 700 {place}" in refused.value.remedy
    moved = replace(options, mapping=[(place, tmp_path / "new")])
    require_possible(standby, replace(source, places=(place,)), moved)


def test_a_slot_alone_makes_no_role(pair: Pair) -> None:
    pair.tde("pg", "primary", "-D", pair.primary.data_directory, "--slot", "one")
    assert slots(pair.primary) == [("one", False)]
    assert pair.primary.query("SELECT count(*) FROM pg_roles WHERE rolreplication") == [(1,)]


def test_plain_and_encrypted_do_not_rejoin_each_other(
    any_binaries, encrypted_cluster_factory, os_user_tmp_path: Path, tde_command: Run
) -> None:
    """The accident: ciphertext copied over the plain files of a node that nobody converted."""
    primary = encrypted_cluster_factory.plain(any_binaries)
    directory = os_user_tmp_path / "standby"
    make = ("pg", "standby", directory, "--primary", conninfo(primary), "-o", QUIET)
    tde_command(*make, "--bindir", any_binaries.bindir)
    tde_command("pg", "stop", "-D", directory)
    keystore = encrypted_cluster_factory.keystore("converted")
    passphrase = ("--passphrase-fd", "0")
    tde_command("pg", "encrypt", "-D", directory, "--keystore", keystore.path, *passphrase)
    tde_command("pg", "start", "-D", directory, "-o", QUIET, *passphrase)
    standby = open_copy(encrypted_cluster_factory, primary, directory, keystore)
    wait_until_replayed(primary, standby)
    tde_command("pg", "promote", "-D", directory)
    tde_command("pg", "stop", "-D", primary.data_directory)
    before = sorted(path.name for path in primary.data_directory.iterdir())
    refused = tde_command(
        *("pg", "rejoin", "-D", primary.data_directory, "--primary", conninfo(standby)),
        *passphrase,
        exit_code=5,
    )
    assert "blocks of one are noise in the other" in " ".join(refused.stderr.split())
    assert sorted(path.name for path in primary.data_directory.iterdir()) == before


def test_a_key_that_is_missing_is_named_before_anything_is_copied(
    pair: Pair, os_user_tmp_path: Path
) -> None:
    """The accident: a base backup of hours, and then a standby that stops at its first start."""
    location = os_user_tmp_path / "space"
    create_tablespace(
        pair.primary.cluster, pair.primary.keystore, "secret", location, Algorithm.AES256
    )
    refused = pair.make("--slot", "second", exit_code=5)
    assert "lacks keys" in refused.stderr
    assert "tablespace secret" in refused.stderr
    assert not pair.standby.data_directory.exists()
    assert slots(pair.primary) == []


def test_what_fails_leaves_no_slot(pair: Pair, os_user_tmp_path: Path) -> None:
    """The accident: a slot that nobody uses keeps WAL until the primary's disk is full."""
    location = os_user_tmp_path / "space"
    space = create_tablespace(
        pair.primary.cluster, pair.primary.keystore, "secret", location, Algorithm.AES256
    )
    pair.tde(
        *("keystore", "copy", pair.primary.keystore.path, pair.copy, "--passphrase-fd", "0"),
    )
    # Without a mapping the tablespace's directory is that of the primary.
    refused = pair.make("--slot", "second", exit_code=1)
    assert "pg_basebackup of" in refused.stderr
    assert not pair.standby.data_directory.exists()
    assert slots(pair.primary) == []
    pair.make("--slot", "second", "-T", f"{space.location}={os_user_tmp_path / 'space2'}")
    wait_for(lambda: slots(pair.primary) == [("second", True)])


def test_another_keystore_is_refused(pair: Pair, keystore_factory) -> None:
    other = keystore_factory("other")
    refused = pair.make("--keystore", other.path, exit_code=5)
    assert "is encrypted with" in refused.stderr
    assert not pair.standby.data_directory.exists()


def test_a_password_in_the_connection_string_is_refused(pair: Pair) -> None:
    refused = pair.make("--primary", "host=/tmp password=secret", exit_code=1)
    assert "everybody on the machine sees" in refused.stderr
    assert "secret" not in refused.stderr


def test_a_standby_of_a_plain_server(
    any_binaries, encrypted_cluster_factory, os_user_tmp_path: Path, tde_command: Run
) -> None:
    primary = encrypted_cluster_factory.plain(any_binaries)
    directory = os_user_tmp_path / "standby"
    command = ("pg", "standby", directory, "--primary", conninfo(primary), "-o", QUIET)
    tde_command(*command, "--bindir", any_binaries.bindir)
    standby = open_copy(encrypted_cluster_factory, primary, directory, None)
    assert is_standby(standby)


def test_a_role_that_may_only_replicate_does_all_of_it(
    binaries,
    encrypted_cluster_factory,
    os_user_tmp_path: Path,
    os_user,
    tde_command: Run,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What `tde pg primary` prepares is enough, over TCP and with a password, there and back."""
    ports = free_ports(2)
    tcp = [f"-c listen_addresses=127.0.0.1 -c port={port}" for port in ports]
    options = {**OPTIONS, "listen_addresses": "127.0.0.1", "port": str(ports[0])}
    primary = encrypted_cluster_factory(binaries, options=options)
    primary.query("CREATE TABLE t AS SELECT 1 AS n")
    primary.keystore.enable_auto_open()
    secret, known = os_user_tmp_path / "secret", os_user_tmp_path / "pgpass"
    secret.write_text("not a good one\n")
    known.write_text("127.0.0.1:*:*:repli:not a good one\n")
    for file in (secret, known):
        file.chmod(0o600)
    if os_user is not None:
        os.chown(known, os_user.uid, os_user.gid)
    monkeypatch.setenv("PGPASSFILE", str(known))
    command = ("pg", "primary", "-D", primary.data_directory, "--from", "127.0.0.1/32")
    done = tde_command(*command, "--password-file", secret, "--slot", "second")
    assert "the role repli" in done.stdout
    assert "not a good one" not in (Path(primary.data_directory) / "pg_hba.conf").read_text()
    assert "Everything is there already" in tde_command(*command, "--slot", "second").stdout

    directory = os_user_tmp_path / "standby"
    upstream = [f"host=127.0.0.1 port={port} user=repli" for port in ports]
    tde_command(
        *("pg", "standby", directory, "--primary", upstream[0], "--slot", "second"),
        *("--keystore", primary.keystore.path, "--bindir", binaries.bindir, "-o", tcp[1]),
    )
    standby = open_copy(encrypted_cluster_factory, primary, directory, primary.keystore)
    kill_server(primary.cluster.pid)
    tde_command("pg", "promote", "-D", directory)
    standby.query("INSERT INTO t VALUES (2)")
    # The slot that the standby used is named in the configuration that pg_rewind copies.
    tde_command("pg", "rejoin", "-D", primary.data_directory, "--primary", upstream[1])
    wait_until_replayed(standby, primary)
    assert rows(primary) == [1, 2]
    # Commits wait for nobody, so a role like this is not enough to change that.
    refused = tde_command(
        *("pg", "standby", os_user_tmp_path / "third", "--primary", upstream[1], "--sync"),
        *("--keystore", primary.keystore.path, "--bindir", binaries.bindir),
        exit_code=1,
    )
    assert "may not change synchronous_standby_names" in refused.stderr


def test_names_that_cannot_be_used_change_nothing(pair: Pair) -> None:
    before = (pair.primary.data_directory / "pg_hba.conf").read_text()
    options = [("--role", "Repli ADMIN"), ("--from", "all"), ("--slot", "UPPER")]
    # Every commit would wait for a standby that is not there.
    options.append(("--sync", "absent"))
    for option in options:
        pair.tde("pg", "primary", "-D", pair.primary.data_directory, *option, exit_code=1)
    assert (pair.primary.data_directory / "pg_hba.conf").read_text() == before
    assert pair.primary.query("SELECT count(*) FROM pg_roles WHERE rolreplication") == [(1,)]
