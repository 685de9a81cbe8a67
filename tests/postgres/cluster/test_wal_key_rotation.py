"""WAL gets other keys while servers run: nothing is lost, and each segment tells its own key."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import psycopg2
import pytest

from tde.algorithms import Algorithm
from tde.errors import (
    ClusterBusyError,
    ClusterKeystoreError,
    KeystoreError,
    ServerStartError,
)
from tde.keystore import Keystore, add_missing_keys, rotate_master_key
from tde.postgres import Cluster, audit, decrypt_cluster, install_bin_directory, run_program
from tde.postgres.cluster import messages, wal_rotation
from tde.postgres.cluster.keymap import KEYMAP_FILE, map_key, read_map
from tde.postgres.cluster.messages import tell_servers
from tde.postgres.cluster.wal_rotation import rotate_wal_key
from tde.postgres.server import owned_files
from tde.postgres.server.os_user import run_as
from tde.postgres.server.published import read_published_status
from tests.conftest import RunningCluster
from tests.convert.interruptions import die_at_sync, run_until
from tests.keystore.cheap_passphrase import PASSPHRASE
from tests.postgres.canaries import CANARY, files_with
from tests.postgres.cluster_copies import base_backup, configure, make_directory, open_copy
from tests.postgres.crashes.file_rewrites import kill_server
from tests.postgres.wal_segments import plain_segment
from tests.replication.test_keys_on_standbys import follow, wait_for, wait_until_replayed

SECRET = ("--passphrase-fd", "0")
LOCAL = "-c listen_addresses="
SEGMENT = ("--wal-segsize=1",)
ADD = f"INSERT INTO t SELECT repeat('{CANARY.decode()}', 20) FROM generate_series(1, 1000)"


def write(made: RunningCluster, segments: int = 1) -> str:
    """Fill segments; returns the name of the first."""
    first = str(made.query("SELECT pg_walfile_name(pg_current_wal_lsn())")[0][0])
    for _ in range(segments):
        made.query(ADD)
        made.query("SELECT pg_switch_wal()")
    return first


def begin(factory, binaries, **options: str) -> RunningCluster:
    made: RunningCluster = factory(binaries, initdb_args=SEGMENT, options=options)
    made.query("CREATE TABLE t (x text)")
    write(made)
    return made


def rows(made: RunningCluster) -> int:
    return int(made.query("SELECT count(*) FROM t")[0][0])


def copy_of(keystore: Keystore, place: Path) -> Path:
    """Copy a keystore, as it is now, for the same user."""
    shutil.copytree(keystore.path, place)
    owner = keystore.path.stat()
    for path in (place, *place.rglob("*")):
        os.chown(path, owner.st_uid, owner.st_gid)
    return place


def dump(made: RunningCluster, keystore: Keystore, segment: Path) -> tuple[int, str]:
    """Read a segment with pg_waldump and the keys of a keystore."""
    run = run_program(
        made.cluster.binaries,
        "pg_waldump",
        ["-n", "1", str(segment)],
        keystore=keystore,
        os_user=made.cluster.os_user,
        timeout=60,
    )
    return run.returncode, run.stdout + run.stderr


def wal_keys(made: RunningCluster) -> list[bytes]:
    """Return what the map names and what the server publishes."""
    keymap = read_map(made.data_directory, made.keystore.uuid, map_key(made.keystore))
    published = read_published_status(made.cluster.pid).keys.wal_key
    return [keymap.wal_keys[-1].bytes, published]


def test_old_segments_keep_their_key_and_new_ones_get_another(
    binaries_older_slow, encrypted_cluster_factory, os_user_tmp_path, tde_command
):
    made = begin(encrypted_cluster_factory, binaries_older_slow, wal_keep_size="64MB")
    before = write(made)
    with Keystore.open(copy_of(made.keystore, os_user_tmp_path / "old"), PASSPHRASE) as old:
        run = tde_command("wal", "rotate", "-D", made.data_directory, *SECRET, "--json")
        told = json.loads(run.stdout)
        assert (told["number"], told["algorithm"], told["server"]) == (
            2,
            "AES-256-XTS",
            made.cluster.pid,
        )
        assert Path(told["key_file"]).is_file()
        write(made, 3)
        after = write(made)
        wal = made.data_directory / "pg_wal"
        # The proof that the key is another one: who has only the old keystore reads no further.
        assert dump(made, old, wal / before)[0] == 0
        failed, output = dump(made, old, wal / after)
        assert failed, output
    for segment in (before, after):
        assert dump(made, made.keystore, wal / segment)[0] == 0
    assert len(set(wal_keys(made))) == 1

    text = tde_command("wal", "rotate", "-D", made.data_directory, *SECRET, "--aes", "128")
    first = read_published_status(made.cluster.pid).keys.wal_key_from
    assert (
        f"process id {made.cluster.pid} writes WAL with it from segment …{first} on" in text.stdout
    )
    assert "Back the keystore up again" in text.stderr
    write(made, 3)
    wanted = rows(made)
    kill_server(made.cluster.pid)
    made.start()
    assert rows(made) == wanted
    assert len(set(wal_keys(made))) == 1
    write(made, 2)
    assert audit(made.cluster, made.keystore).clean
    made.cluster.stop()
    assert files_with(CANARY, made.data_directory) == []
    tde_command("keystore", "verify", "-k", made.keystore.path, *SECRET)
    listed = tde_command("keystore", "list", "-k", made.keystore.path, *SECRET).stdout
    assert "\nwal.2." in listed
    assert "\nwal.3." in listed


def test_rotations_under_load_lose_nothing(
    binaries_older_slow, encrypted_cluster_factory, os_user_tmp_path
):
    """Sessions that open segments beside the change agree on each segment's key."""
    made = begin(encrypted_cluster_factory, binaries_older_slow, checkpoint_timeout="30s")
    acknowledged: list[int] = []
    stop = threading.Event()

    def insert(first: int) -> None:
        connection = psycopg2.connect(**made.cluster.connection_parameters("postgres"))
        connection.autocommit = True
        with connection, connection.cursor() as cursor:
            number = first
            while not stop.is_set():
                cursor.execute("INSERT INTO load VALUES (%s, repeat('x', 20000))", (number,))
                acknowledged.append(number)
                number += 4
        connection.close()

    made.query("CREATE TABLE load (n int, x text)")
    made.query("ALTER TABLE load ALTER x SET STORAGE EXTERNAL")
    sessions = [threading.Thread(target=insert, args=(n,)) for n in range(4)]
    for session in sessions:
        session.start()
    try:
        for _ in range(8):
            rotate_wal_key(made.cluster, made.keystore, Algorithm.AES256)
            count = len(acknowledged)
            wait_for(lambda least=count + 100: len(acknowledged) > least)
    finally:
        stop.set()
        for session in sessions:
            session.join()
    kill_server(made.cluster.pid)
    made.start()
    found = {n for (n,) in made.query("SELECT n FROM load")}
    assert found == set(acknowledged)
    assert audit(made.cluster, made.keystore).clean


@pytest.fixture
def archived(binaries_older_slow, encrypted_cluster_factory, os_user_tmp_path):
    """A backup, a keystore of its time, an archive with segments of two keys, and the rows."""
    made = begin(encrypted_cluster_factory, binaries_older_slow)
    archive = make_directory(made, os_user_tmp_path / "archive")
    made.query("ALTER SYSTEM SET archive_mode = on")
    made.query(f"ALTER SYSTEM SET archive_command = 'cp %p {archive}/%f'")
    made.cluster.stop()
    made.start()
    backup = os_user_tmp_path / "backup"
    base_backup(made, backup, "--wal-method=none")
    old = copy_of(made.keystore, os_user_tmp_path / "old")
    rotate_wal_key(made.cluster, made.keystore, Algorithm.AES256)
    write(made, 3)
    last = write(made)
    wait_for(lambda: (archive / last).exists())
    return made, backup, archive, old


def restore(factory, archived, keystore: Keystore) -> RunningCluster:
    made, backup, archive, _ = archived
    restored = open_copy(factory, made, backup, keystore)
    settings = [f"restore_command = 'cp {archive}/%f %p'", "archive_mode = off"]
    configure(restored, settings)
    (backup / "recovery.signal").touch()
    return restored  # type: ignore[no-any-return]


def test_recovery_does_not_end_where_a_key_is_missing(archived, encrypted_cluster_factory):
    """To PostgreSQL a segment that it cannot read is the end of WAL; rows would be lost."""
    made, _, _, old = archived
    wanted = rows(made)
    with Keystore.open(old, PASSPHRASE) as keystore:
        restored = restore(encrypted_cluster_factory, archived, keystore)
        with pytest.raises(ServerStartError):
            restored.start()
        log = restored.cluster.default_log.read_text()
        assert f"no key of WAL in {old}/keys fits it" in log
        assert f"tde keystore copy BACKUP {old}" in log
        assert "archive recovery complete" not in log
        # It reads the newest keystore, too, and also after a rotation of the master key.
        add_missing_keys(made.keystore.path, keystore)
        restored.start()
        wait_for(lambda: restored.query("SELECT pg_is_in_recovery()") == [(False,)])
        assert rows(restored) == wanted


def test_what_cannot_be_read_replaces_nothing(archived, encrypted_cluster_factory):
    """The accident: a standby has WAL, and an archive has the same, which it cannot read.

    PostgreSQL removes its own segment before it gives the archive's its name.
    """
    made, _, _, old = archived
    with Keystore.open(old, PASSPHRASE) as keystore:
        standby = restore(encrypted_cluster_factory, archived, keystore)
        directory = standby.data_directory
        (directory / "recovery.signal").unlink()
        add_missing_keys(made.keystore.path, keystore)
        follow(standby, made)
        standby.start()
        wait_until_replayed(made, standby)
        standby.query("SELECT pg_wal_replay_pause()")
        # A key that it has not got.
        rotate_wal_key(made.cluster, made.keystore, Algorithm.AES256, wait=False)
        write(made, 3)
        wanted = rows(made)
        position = made.query("SELECT pg_current_wal_flush_lsn()")[0][0]
        received = f"SELECT pg_last_wal_receive_lsn() >= '{position}'"
        wait_for(lambda: standby.query(received) == [(True,)])
        made.cluster.stop()
        kill_server(standby.cluster.pid)
        before = segments_of(directory)
        with contextlib.suppress(ServerStartError):
            standby.start()  # It may be ready before it gets there.
        wait_for(lambda: standby.cluster.pid is None)
        assert "what this server has itself was kept" in standby.cluster.default_log.read_text()
        assert segments_of(directory) == before
        configure(standby, ["restore_command = ''"])
        standby.start()
        standby.query("SELECT pg_promote()")
        wait_for(lambda: standby.query("SELECT pg_is_in_recovery()") == [(False,)])
        assert rows(standby) == wanted


def segments_of(directory: Path) -> list[str]:
    return sorted(path.name for path in (directory / "pg_wal").glob("0*[0-9A-F]"))


def test_a_server_remembers_the_keys_of_others_whose_wal_it_has(
    archived, encrypted_cluster_factory, os_user_tmp_path
):
    """The accident: an older copy of the keystore, and recovery ends where it cannot read."""
    made, _, _, old = archived
    copied = copy_of(made.keystore, os_user_tmp_path / "newest")
    with Keystore.open(copied, PASSPHRASE) as newest, Keystore.open(old, PASSPHRASE) as older:
        standby = restore(encrypted_cluster_factory, archived, newest)
        (standby.data_directory / "recovery.signal").unlink()
        (standby.data_directory / "standby.signal").touch()
        standby.start()
        wait_for(lambda: rows(standby) == rows(made))
        keymap = read_map(standby.data_directory, newest.uuid, map_key(newest))
        (key_id,) = keymap.foreign_wal_keys
        assert keymap.wal_keys == []
        kill_server(standby.cluster.pid)
        standby.keystore = older
        with pytest.raises(ClusterKeystoreError, match=f"wal.\\*.{key_id.hex}.key"):
            standby.start()
        standby.keystore = newest
        standby.start()
        # It answers from its consistency point on, before it has read the archive to its end.
        wait_for(lambda: rows(standby) == rows(made))


def test_a_map_is_not_followed_without_its_keys(
    archived, encrypted_cluster_factory, os_user_tmp_path, tde_command
):
    made, _, _, old = archived
    target = os_user_tmp_path / "later"
    base_backup(made, target, "--wal-method=stream")
    with Keystore.open(old, PASSPHRASE) as keystore:
        restored = open_copy(encrypted_cluster_factory, made, target, keystore)
        missing = "a key of the WAL is missing: there is no key file"
        with pytest.raises(ClusterKeystoreError, match=missing) as refused:
            restored.start()
        assert "tde keystore copy" in refused.value.remedy
        checked = tde_command(
            *("keystore", "verify", "-k", old, "--backup", target, *SECRET), exit_code=1
        )
        assert "the WAL, a later key" in checked.stdout
        # The server looks itself, for those who start it in another way.
        keystore.enable_auto_open()
        programs = install_bin_directory(
            os_user_tmp_path / "bin",
            made.cluster.binaries,
            made.cluster.os_user,
            keystore=keystore,
        )
        log = os_user_tmp_path / "pg_ctl.log"
        command = [programs.path / "pg_ctl", "start", "-w", "-D", target, "-l", log]
        run = run_as(made.cluster.os_user, [*map(str, command)], cwd=os_user_tmp_path)
        assert run.returncode != 0
        assert f"there is no usable key file {old}/keys/wal.<number>." in log.read_text()
        add_missing_keys(made.keystore.path, keystore)
        restored.start({"archive_mode": "off"})
        assert rows(restored) == rows(made)


def test_each_node_of_a_pair_has_its_own_rotations(
    binaries_older_slow, encrypted_cluster_factory, os_user_tmp_path
):
    """Streaming, failover and pg_rewind do not depend on which key a node writes with."""
    options = {"wal_keep_size": "64MB"}
    primary = begin(encrypted_cluster_factory, binaries_older_slow, **options)
    place = copy_of(primary.keystore, os_user_tmp_path / "own")
    directory = os_user_tmp_path / "standby"
    base_backup(primary, directory, "--write-recovery-conf", "--wal-method=stream")
    with Keystore.open(place, PASSPHRASE) as keystore:
        standby = open_copy(encrypted_cluster_factory, primary, directory, keystore)
        standby.start(options)
        for server in (primary, standby):
            rotate_wal_key(server.cluster, server.keystore, Algorithm.AES256, wait=False)
        write(primary, 3)
        wait_until_replayed(primary, standby)
        assert rows(standby) == rows(primary)
        standby.query("SELECT pg_promote()")
        wait_for(lambda: standby.query("SELECT pg_is_in_recovery()") == [(False,)])
        standby.query("CHECKPOINT")  # Before 16, pg_rewind sees the new timeline only after that.
        write(primary)  # Which is lost by the failover.
        write(standby, 2)
        primary.cluster.stop()
        rewind(primary, standby)
        follow(primary, standby)
        # The map came with pg_rewind, and names the key that only the other node has.
        with pytest.raises(ClusterKeystoreError, match="a key of the WAL is missing"):
            primary.start(options)
        add_missing_keys(keystore.path, primary.keystore)
        primary.start(options)
        wait_until_replayed(standby, primary)
        assert rows(primary) == rows(standby)
        for server in (primary, standby):
            assert audit(server.cluster, server.keystore).clean


def rewind(target: RunningCluster, source: RunningCluster) -> None:
    parameters = source.cluster.connection_parameters()
    text = " ".join(f"{key}={parameters[key]}" for key in ("host", "port", "user"))
    run = run_program(
        target.cluster.binaries,
        "pg_rewind",
        ["-D", str(target.data_directory), "--source-server", f"{text} dbname=postgres"],
        keystore=target.keystore,
        os_user=target.cluster.os_user,
        timeout=120,
    )
    assert run.returncode == 0, run.stderr


def test_a_stopped_cluster_begins_with_the_new_key(
    any_binaries, encrypted_cluster_factory, tde_command
):
    made = begin(encrypted_cluster_factory, any_binaries)
    wanted = rows(made)
    made.cluster.stop()
    told = tde_command("wal", "rotate", "-D", made.data_directory, *SECRET)
    assert "The next start begins with it." in told.stdout
    made.start()
    assert len(set(wal_keys(made))) == 1
    write(made, 2)
    with rotate_master_key(made.keystore.path, PASSPHRASE, tell_servers):
        pass
    kill_server(made.cluster.pid)
    tde_command("pg", "start", "-D", made.data_directory, "-o", LOCAL, *SECRET)
    assert rows(made) == wanted + 2000


@pytest.mark.parametrize("name", ["append_entry", "send_wal_key"])
def test_an_interrupted_rotation_breaks_nothing(
    any_binaries, encrypted_cluster_factory, monkeypatch, name
):
    """The key is there and not named, or named and not told."""
    made = begin(encrypted_cluster_factory, any_binaries)

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(wal_rotation, name, die)
        with pytest.raises(KeyboardInterrupt):
            rotate_wal_key(made.cluster, made.keystore, Algorithm.AES256)
    write(made, 2)
    wanted = rows(made)
    kill_server(made.cluster.pid)
    made.start()
    assert rows(made) == wanted
    done = rotate_wal_key(made.cluster, made.keystore, Algorithm.AES256)
    assert (done.owner.oid, done.server) == (3, made.cluster.pid)
    write(made, 2)
    assert audit(made.cluster, made.keystore).clean


def test_a_torn_entry_of_the_map_does_not_count(any_binaries, encrypted_cluster_factory):
    """The accident: the machine fails while the entry is being written."""
    made = begin(encrypted_cluster_factory, any_binaries)
    keymap = made.data_directory / KEYMAP_FILE
    for rest in (b"\0" * 64, b"torn"):
        with keymap.open("ab") as file:
            file.write(rest)
        rotate_wal_key(made.cluster, made.keystore, Algorithm.AES256)
        assert len(set(wal_keys(made))) == 1
    assert keymap.stat().st_size % 64 == 0
    write(made, 2)


def refuse(made: RunningCluster, change: Callable[[], None], message: str) -> None:
    keys = sorted(path.name for path in (made.keystore.path / "keys").iterdir())
    change()
    with pytest.raises((KeystoreError, ClusterKeystoreError), match=message):
        rotate_wal_key(made.cluster, made.keystore, Algorithm.AES256)
    assert sorted(path.name for path in (made.keystore.path / "keys").iterdir()) == keys


def test_a_server_that_cannot_be_told_makes_no_key(
    any_binaries, encrypted_cluster_factory, monkeypatch
):
    """A server of an earlier release would not know the entry of the map."""
    made = begin(encrypted_cluster_factory, any_binaries)
    status = read_published_status(made.cluster.pid)
    older = replace(status, keys=replace(status.keys, wal_key=None))
    refuse(
        made,
        lambda: monkeypatch.setattr(messages, "read_published_status", lambda pid: older),
        "was started by an earlier release",
    )


def test_a_server_has_places_for_all_keys_that_a_keystore_may_have(
    any_binaries, encrypted_cluster_factory, os_user_tmp_path
):
    made = begin(encrypted_cluster_factory, any_binaries)
    made.cluster.stop()
    for _ in range(253):
        made.keystore.create_wal_key(Algorithm.AES256)
    rotate_wal_key(made.cluster, made.keystore, Algorithm.AES256)
    with pytest.raises(KeystoreError, match="has 255 keys for WAL"):
        rotate_wal_key(made.cluster, made.keystore, Algorithm.AES256)
    made.start()
    assert len(set(wal_keys(made))) == 1
    write(made, 2)
    wanted = rows(made)
    kill_server(made.cluster.pid)
    made.start()
    assert rows(made) == wanted


def test_programs_that_receive_wal_write_the_newest_key(
    binaries_older_slow, encrypted_cluster_factory, os_user_tmp_path
):
    made = begin(encrypted_cluster_factory, binaries_older_slow)
    with Keystore.open(copy_of(made.keystore, os_user_tmp_path / "old"), PASSPHRASE) as old:
        rotate_wal_key(made.cluster, made.keystore, Algorithm.AES256)
        write(made, 2)
        target = os_user_tmp_path / "backup"
        base_backup(made, target, "--wal-method=stream")
        segment = min((target / "pg_wal").glob("0*"))
        assert dump(made, old, segment)[0] != 0
        assert dump(made, made.keystore, segment)[0] == 0
    copy = Cluster(target, made.cluster.binaries, os_user=made.cluster.os_user)
    encrypted_cluster_factory.track(copy)
    restored = RunningCluster(copy, made.keystore)
    restored.start()
    assert rows(restored) == rows(made)


def test_a_decryption_that_dies_goes_on_with_the_key_of_each_segment(
    any_binaries, encrypted_cluster_factory
):
    """A segment whose first page is in plaintext already tells no key any more."""
    made = begin(encrypted_cluster_factory, any_binaries, wal_keep_size="64MB")
    for _ in range(2):
        rotate_wal_key(made.cluster, made.keystore, Algorithm.AES256)
        write(made, 3)
    wanted = rows(made)
    made.cluster.stop()
    segments = sorted((made.data_directory / "pg_wal").glob("0*[0-9A-F]"))
    expected = {file: plain_segment(made.keystore, file) for file in segments if is_begun(file)}
    assert len(expected) > 6

    def convert() -> None:
        decrypt_cluster(made.cluster, made.keystore, jobs=1)

    for number in (4, 5, 6, 8):
        assert run_until(die_at_sync(number), convert)
    convert()
    for file, content in expected.items():
        assert file.read_bytes() == content, file.name
    plain = RunningCluster(made.cluster, None)
    plain.start()
    assert rows(plain) == wanted


def is_begun(segment: Path) -> bool:
    return any(segment.read_bytes()[:512])


def test_a_map_that_another_process_keeps_locked_is_not_waited_for_without_end(
    any_binaries, encrypted_cluster_factory, monkeypatch
):
    """A stopped process that holds the lock would hang the command, which has the cluster's."""
    made = begin(encrypted_cluster_factory, any_binaries)
    keymap = made.data_directory / KEYMAP_FILE
    before = keymap.read_bytes()
    monkeypatch.setattr(owned_files, "_PATIENCE", 0.2)
    with keymap.open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(ClusterBusyError, match=rf"has {keymap} locked") as caught:
            rotate_wal_key(made.cluster, made.keystore, Algorithm.AES256)
    assert f"fuser -v {keymap}" in caught.value.remedy
    assert keymap.read_bytes() == before
    rotate_wal_key(made.cluster, made.keystore, Algorithm.AES256)
    assert len(set(wal_keys(made))) == 1
