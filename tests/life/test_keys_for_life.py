"""The whole life of keys on a synchronous pair under load, typed as a DBA would type it.

Each change is followed by a base backup, and at the end every backup is restored twice: with the
keystore of its time, and with the newest one. What was typed and printed is the transcript in
results/life-of-keys.md, which ``make life`` writes anew.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.keystore.vault_server import TOKEN, vault_server
from tests.life.nodes import Load, Node, Transcript, write_secret
from tests.replication.family import wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

FIRST, SECOND = "correct horse battery staple", "other words that open it"
SETTINGS = """
listen_addresses = ''
shared_buffers = '16MB'
wal_keep_size = '256MB'
max_wal_size = '64MB'
synchronous_standby_names = '*'
archive_mode = on
archive_command = 'cp %p {archive}/%f'
restore_command = 'cp {archive}/%f %p'
"""
STOPPED = "could not encrypt or decrypt data because the keystore is not open"
SUMS = (
    "SELECT count(DISTINCT s) FROM (SELECT sum(abalance) s FROM pgbench_accounts UNION ALL "
    "SELECT sum(bbalance) FROM pgbench_branches UNION ALL SELECT sum(tbalance) FROM "
    "pgbench_tellers UNION ALL SELECT coalesce(sum(delta), 0) FROM pgbench_history) x"
)


@dataclass
class Moment:
    """A base backup, and the keystore of its time."""

    name: str
    data: Path
    keystore: Path
    passphrase: str


class Pair:
    """Two nodes, an archive, and the moments of their life."""

    def __init__(self, directory: Path, os_user, log: Transcript, bindir: Path) -> None:
        self.directory = directory
        self.log = log
        self.bindir = bindir
        self.spaces = directory / "spaces"
        self.spaces.mkdir(mode=0o755)
        self.a = Node("a", directory, self.spaces, os_user, bindir, log)
        self.b = Node("b", directory, self.spaces, os_user, bindir, log)
        self.archive = self.a.make_directory(directory / "archive")
        self.moments: list[Moment] = []
        self.load: Load | None = None
        self.transactions = 0
        for node in (self.a, self.b):
            write_secret(node.passphrase, FIRST)

    def close(self) -> None:
        for node in (self.a, self.b):
            node.close()

    def begin_load(self, node: Node) -> None:
        self.load = Load(node)
        self.load.start()

    def end_load(self) -> None:
        assert self.load is not None
        done = self.load.finish()
        self.transactions += done
        self.log.say(f"pgbench on {self.load.node.name}: {done} transactions, none failed.")

    def remember(self, name: str, node: Node) -> None:
        """Take a base backup and a backup of the keystore, which are restored at the end."""
        moment = Moment(
            name,
            node.make_directory(self.directory / f"backup-{name}") / "data",
            self.directory / f"backup-{name}" / "keystore",
            node.passphrase.read_text(),
        )
        spaces = node.sql("SELECT pg_tablespace_location(oid) FROM pg_tablespace WHERE oid > 16000")
        mapped = [f"-T{s}={moment.data}-{Path(s).name}" for s in spaces.split()]
        node.exec("pg_basebackup", "-c", "fast", *mapped, "-D", moment.data, shown=False)
        node.tde("keystore", "backup", moment.keystore, "--keystore", node.keystore, shown=False)
        self.moments.append(moment)

    def bring_keys(self, source: Node, target: Node) -> None:
        """Bring the keys that one node has made to the other, as across two machines."""
        copy = self.directory / f"travelling-{source.name}"
        shutil.rmtree(copy, ignore_errors=True)
        source.tde("keystore", "backup", copy, "--keystore", source.keystore)
        target.key_command("keystore", "copy", copy, target.keystore)
        shutil.rmtree(copy)

    def wait_until_in_step(self, primary: Node) -> None:
        state = "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'"
        wait_for(lambda: primary.sql(state) == "1", "a synchronous standby")

    def audit(self, node: Node) -> None:
        node.key_command("pg", "audit", "-D", node.data)  # Exit code 0: nothing was found.


@pytest.fixture
def pair(binaries_older_slow, os_user, os_user_tmp_path) -> Iterator[Pair]:
    if os.geteuid() != 0:
        pytest.skip("each node needs a mount namespace")
    log = Transcript(os_user_tmp_path)
    made = Pair(os_user_tmp_path, os_user, log, binaries_older_slow.bindir)
    try:
        yield made
    finally:
        made.close()


def test_a_pair_goes_through_the_life_of_its_keys(pair: Pair):
    begin(pair)
    change_passphrase(pair)
    rotate_master_keys(pair)
    rotate_keys_of_wal(pair)
    make_tablespace(pair)
    lock_and_unlock(pair)
    close_and_open(pair)
    use_a_provider(pair)
    rekey_and_switch_over(pair)
    tell_the_life(pair)
    restore_all(pair)
    place = os.environ.get("LIFE_TRANSCRIPT")
    if place:
        pair.log.write(Path(place), "A life of keys, typed on a running pair")


def begin(pair: Pair) -> None:
    log, a, b = pair.log, pair.a, pair.b
    log.heading("A cluster, a keystore, and a synchronous standby")
    bindir = ("--bindir", pair.bindir)
    a.key_command("keystore", "create", "--keystore", a.keystore)
    where = ("-D", a.data, "--keystore", a.keystore, *bindir)
    a.key_command("pg", "init", *where, "--", "-A", "trust")
    with (a.data / "postgresql.conf").open("a") as file:
        file.write(SETTINGS.format(archive=pair.archive))
    a.key_command("pg", "start", "-D", a.data, *bindir)
    a.exec("pg_basebackup", "-c", "fast", "-R", "-D", b.data)
    a.tde("keystore", "backup", pair.directory / "first", "--keystore", a.keystore)
    b.tde("keystore", "restore", pair.directory / "first", "--keystore", b.keystore)
    b.key_command("pg", "start", "-D", b.data, "--keystore", b.keystore, *bindir)
    pair.wait_until_in_step(a)
    a.pgbench("-i", "-q", "-s", 2)
    pair.remember("at-first", a)
    pair.begin_load(a)


def change_passphrase(pair: Pair) -> None:
    pair.log.heading("Another passphrase, on both nodes")
    new = pair.directory / "new-passphrase"
    write_secret(new, SECOND)
    for node in (pair.a, pair.b):
        node.key_command(
            *("keystore", "passphrase", "--keystore", node.keystore),
            *("--new-passphrase-file", new),
        )
        refused = node.key_command(
            "keystore", "verify", "--keystore", node.keystore, exit_code=5, shown=False
        )
        assert "wrong passphrase" in refused
        write_secret(node.passphrase, SECOND)
    pair.remember("passphrase", pair.a)


def rotate_master_keys(pair: Pair) -> None:
    pair.log.heading("Another master key, on both nodes")
    for node in (pair.a, pair.b):
        node.key_command("keystore", "rotate", "--keystore", node.keystore)
    pair.remember("master-key", pair.a)


def rotate_keys_of_wal(pair: Pair) -> None:
    pair.log.heading("Another key of WAL")
    pair.log.say("Each node writes with a key of its own, and gets that of the other.")
    for node in (pair.a, pair.b):
        node.key_command("wal", "rotate", "-D", node.data)
    pair.bring_keys(pair.a, pair.b)
    pair.bring_keys(pair.b, pair.a)
    pair.a.sql("SELECT pg_switch_wal()")
    pair.remember("wal-key", pair.a)


def make_tablespace(pair: Pair) -> None:
    pair.log.heading("A tablespace with a key of its own")
    a, b = pair.a, pair.b
    secret = pair.spaces / "secret"
    create = ("tablespace", "create", "secret", "-D", a.data, "--location", secret)
    shown = a.key_command(*create, "--prepare")
    found = re.search(r"Prepared key ([0-9a-f]{32})", shown)
    assert found is not None
    pair.bring_keys(a, b)
    b.make_space(secret)
    b.make_space(secret / f"tde-{found[1]}")
    a.key_command(*create, "--key", found[1])
    rows = "SELECT g, 'secret ' || g AS x FROM generate_series(1, 10000) g"
    a.sql(f"CREATE TABLE secrets TABLESPACE secret AS {rows}", shown=True)
    a.tde("tablespace", "list", "-D", a.data)
    pair.remember("tablespace", a)


def lock_and_unlock(pair: Pair) -> None:
    pair.log.heading("A tablespace is locked, and unlocked")
    a = pair.a
    a.key_command("tablespace", "lock", "secret", "-D", a.data)
    refused = a.sql("SELECT count(*) FROM secrets", exit_code=1, shown=True)
    assert "Required key not available" in refused or STOPPED in refused
    a.key_command("tablespace", "unlock", "secret", "-D", a.data)
    assert a.sql("SELECT count(*) FROM secrets", shown=True) == "10000"


def close_and_open(pair: Pair) -> None:
    pair.log.heading("The keystore is closed, and opened")
    a = pair.a
    a.key_command("keystore", "close", "-D", a.data)
    a.tde("pg", "status", "-D", a.data)
    refused = a.sql("SELECT count(*) FROM secrets", exit_code=1, shown=True)
    assert "Required key not available" in refused or STOPPED in refused
    a.key_command("keystore", "open", "-D", a.data)
    assert a.sql("SELECT count(*) FROM secrets", shown=True) == "10000"


def use_a_provider(pair: Pair) -> None:
    """A key server opens the standby's keystore, and is away when the standby starts again."""
    pair.log.heading("A key server opens the standby's keystore, and goes away")
    b = pair.b
    token = pair.directory / "vault-token"
    write_secret(token, TOKEN)
    # A provider runs with the rights of the keystore's owner.
    b.shell("chown", "--reference", b.keystore, token)
    parameters = {"key": "tde", "token-file": token}
    with vault_server() as server:
        address = f"http://127.0.0.1:{server.port}"
        given = [
            word
            for name, value in {"address": address, **parameters}.items()
            for word in ("-o", f"{name}={value}")
        ]
        b.key_command(
            *("keystore", "provider", "add", "vault", "--type", "vault", *given),
            *("--unattended", "--cache", "12h", "--keystore", b.keystore),
        )
        b.tde("keystore", "provider", "test", "vault", "--keystore", b.keystore)
        restart_without_passphrase(pair)
    pair.log.say("Now the key server is down.")
    assert b.sql("SELECT count(*) FROM secrets", shown=True) == "10000"
    restart_without_passphrase(pair)
    assert b.sql("SELECT count(*) FROM secrets", shown=True) == "10000"
    b.tde("keystore", "provider", "remove", "vault", "--keystore", b.keystore)
    pair.remember("provider", pair.a)


def restart_without_passphrase(pair: Pair) -> None:
    pair.b.tde("pg", "stop", "-D", pair.b.data)
    pair.b.tde("pg", "start", "-D", pair.b.data)
    pair.wait_until_in_step(pair.a)


def tell_the_life(pair: Pair) -> None:
    pair.log.heading("What the key log of the first node tells")
    a = pair.a
    a.key_command("keystore", "list", "--keystore", a.keystore, "-D", a.data)
    a.key_command("keystore", "history", "--keystore", a.keystore)
    a.key_command("keystore", "log", "--verify", "--last", 5, "--keystore", a.keystore)


def rekey_and_switch_over(pair: Pair) -> None:
    a, b = pair.a, pair.b
    pair.log.heading("The standby gets other keys, while the primary serves")
    asynchronous = "ALTER SYSTEM SET synchronous_standby_names = ''"
    synchronous = "ALTER SYSTEM RESET synchronous_standby_names"
    a.sql(asynchronous, shown=True)
    a.sql("SELECT pg_reload_conf()")
    b.tde("pg", "stop", "-D", b.data)
    b.key_command("tablespace", "rekey", "--all", "-D", b.data)
    b.key_command("pg", "start", "-D", b.data)
    a.sql(synchronous, shown=True)
    a.sql("SELECT pg_reload_conf()")
    pair.wait_until_in_step(a)
    pair.remember("rekeyed-standby", b)

    pair.log.heading("Switchover, and the other node gets the same keys")
    pair.end_load()
    a.tde("pg", "stop", "-D", a.data)
    b.sql("SELECT pg_promote()", shown=True)
    b.sql(asynchronous)
    b.sql("SELECT pg_reload_conf()")
    pair.begin_load(b)
    pair.bring_keys(b, a)
    keymap = pair.directory / "tde.keymap"
    shutil.copy(b.data / "tde.keymap", keymap)
    a.key_command("tablespace", "rekey", "--all", "-D", a.data, "--same-keys-as", keymap)
    a.shell("install", "-m", "0600", *a._owner(), "/dev/null", a.data / "standby.signal")
    conninfo = (b.data / "postgresql.auto.conf").read_text()
    assert "primary_conninfo" in conninfo
    _, host, _, port, _, user = b.connection()
    with (a.data / "postgresql.auto.conf").open("a") as file:
        file.write(f"primary_conninfo = 'host={host} port={port} user={user}'\n")
    a.key_command("pg", "start", "-D", a.data)
    b.sql(synchronous)
    b.sql("SELECT pg_reload_conf()")
    pair.wait_until_in_step(b)
    pair.remember("switched-over", b)
    pair.end_load()

    pair.log.heading("Both nodes are audited")
    # Pages that exist in memory only would be warned of.
    b.sql("CHECKPOINT")
    position = b.sql("SELECT pg_current_wal_flush_lsn()")
    replayed = f"SELECT pg_last_wal_replay_lsn() >= '{position}'"
    wait_for(lambda: a.sql(replayed) == "t", "the end of the replay")
    a.sql("CHECKPOINT")
    for node in (b, a):
        pair.audit(node)
    assert a.sql(SUMS) == b.sql(SUMS) == "1"


def restore_all(pair: Pair) -> None:
    """Restore each backup with the keystore of its time, and with the newest of all."""
    pair.log.heading("Every backup is restored, with the keystore of its time and with the newest")
    b = pair.b
    b.sql("SELECT pg_switch_wal()")
    pair.bring_keys(pair.a, b)
    newest = Moment("newest", b.data, b.keystore, b.passphrase.read_text())
    for moment in pair.moments:
        for kept in (moment, newest):
            restore(pair, moment, kept)


def restore(pair: Pair, moment: Moment, kept: Moment) -> None:
    b = pair.b
    target = pair.directory / "restored"
    spaces = list(moment.data.parent.glob("data-*"))
    shutil.copytree(moment.data, target, symlinks=True)
    for path in [target, *target.rglob("*")]:
        shutil.chown(path, *([b.os_user.uid, b.os_user.gid] if b.os_user else []))
    (target / "standby.signal").unlink(missing_ok=True)
    (target / "recovery.signal").touch()
    with (target / "postgresql.auto.conf").open("a") as file:
        file.write("synchronous_standby_names = ''\narchive_mode = off\n")
        if kept is moment:
            # The archive goes on with keys that the keystore of that time lacks.
            file.write("recovery_target = 'immediate'\nrecovery_target_action = 'promote'\n")
    keystore = pair.directory / "keystore-restored"
    b.tde("keystore", "restore", kept.keystore, "--keystore", keystore, shown=False)
    secret = pair.directory / "passphrase-restored"
    write_secret(secret, kept.passphrase)
    opened = ("--keystore", keystore, "--passphrase-file", secret, "--bindir", pair.bindir)
    b.tde("pg", "start", "-D", target, *opened, shown=False)
    ends = "SELECT pg_is_in_recovery()"
    psql = ("psql", "-D", target, "--", "-X", "-A", "-t", "-c")
    wait_for(lambda: b.tde(*psql, ends, shown=False).strip() == "f", "the end of recovery")
    assert b.tde(*psql, SUMS, shown=False).strip() == "1"
    rows = b.tde(*psql, "SELECT count(*) FROM pgbench_history", shown=False).strip()
    if kept is not moment:
        assert rows == b.sql("SELECT count(*) FROM pgbench_history")
    b.tde("pg", "stop", "-D", target, "-m", "immediate", shown=False)
    shutil.rmtree(target)
    shutil.rmtree(keystore)
    pair.log.say(
        f"* `{moment.name}`, keystore {'of its time' if kept is moment else 'newest'}: "
        f"{rows} transactions, sums equal ({len(spaces)} tablespaces)"
    )
