"""Rotating the master key while servers run, start and stop."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import threading
import time

import psycopg2
import pytest

from tde.errors import KeystoreBusyError, KeystoreError, TdeError
from tde.keystore import Keystore, inspect_keystore, rotate_master_key
from tde.keystore.message import MESSAGE_BYTES, seal_master_key
from tde.postgres import audit
from tde.postgres.cluster.messages import send_master_key, servers_with_keys_of
from tde.postgres.server.published import read_published_status
from tests.conftest import RunningCluster
from tests.keystore.cheap_passphrase import PASSPHRASE
from tests.postgres.cluster_copies import make_directory

SECRET = ("--passphrase-fd", "0")


class Load(threading.Thread):
    """Inserts rows one by one, and remembers the first error."""

    def __init__(self, made: RunningCluster) -> None:
        super().__init__(daemon=True)
        self.parameters = made.cluster.connection_parameters()
        self.stopping = threading.Event()
        self.rows = 0
        self.error: Exception | None = None

    def run(self) -> None:
        try:
            while not self.stopping.is_set():
                # A new session each time: its process is a child of the postmaster of now.
                connection = psycopg2.connect(**self.parameters)
                connection.autocommit = True
                with connection.cursor() as cursor:
                    cursor.execute("INSERT INTO t SELECT 'row'")
                connection.close()
                self.rows += 1
        except Exception as error:
            self.error = error

    def end(self) -> int:
        self.stopping.set()
        self.join()
        assert self.error is None
        return self.rows


def rotate(tde_command, keystore, **arguments):
    return tde_command("keystore", "rotate", "-k", keystore, *SECRET, **arguments)


def reopened(made: RunningCluster) -> RunningCluster:
    """Return the cluster with its keystore as it is now: a test's own object is of before."""
    keystore = Keystore.open(made.keystore.path, PASSPHRASE)
    return RunningCluster(made.cluster, keystore)


def test_a_server_under_load_goes_on_and_uses_the_new_master_key(
    binaries_older_slow, encrypted_cluster_factory, tde_command, os_user_tmp_path
):
    made = encrypted_cluster_factory(binaries_older_slow)
    made.query("CREATE TABLE t (x text)")
    load = Load(made)
    load.start()
    masters = [made.keystore.master_key_id]
    for number in range(3):
        told = rotate(tde_command, made.keystore.path)
        assert f"The server with process id {made.cluster.pid} has it." in told.stdout
        masters.append(inspect_keystore(made.keystore.path).master_key_id)
        # Its key is made by the tool and read by the server: both have the master key of now.
        name, place = f"space{number}", make_directory(made, os_user_tmp_path / f"ts{number}")
        tde_command(
            "tablespace", "create", name, "--location", place, "-D", made.data_directory, *SECRET
        )
        made.query(f"CREATE TABLE t{number} TABLESPACE {name} AS SELECT 'in {name}' AS x")
    rows = load.end()
    assert len(set(masters)) == 4
    assert rows > 0
    published = read_published_status(made.cluster.pid)
    assert published.keys.master_key_id == masters[-1]
    assert not list(made.keystore.path.glob("keys.*"))
    made.cluster.stop()
    now = reopened(made)
    now.start()
    assert now.query("SELECT count(*) FROM t") == [(rows,)]
    for number in range(3):
        assert now.query(f"SELECT x FROM t{number}") == [(f"in space{number}",)]
    now.cluster.stop()
    assert audit(made.cluster, now.keystore).clean
    now.keystore.close()


def test_the_keystore_of_before_opens_a_backup_and_is_told_apart(
    any_binaries, encrypted_cluster_factory, tde_command, os_user_tmp_path
):
    made = encrypted_cluster_factory(any_binaries)
    made.query("CREATE TABLE t AS SELECT 'kept' AS x")
    made.cluster.stop()
    before = os_user_tmp_path / "before"
    tde_command("keystore", "backup", before, "-k", made.keystore.path)
    rotate(tde_command, made.keystore.path)
    # What was opened before the rotation has a master key that opens nothing any more.
    with pytest.raises(KeystoreBusyError, match="was rotated after"):
        made.start()
    shutil.rmtree(made.keystore.path)
    tde_command("keystore", "restore", before, "-k", made.keystore.path)
    made.start()
    assert made.query("SELECT x FROM t") == [("kept",)]


def test_keys_reach_a_copy_with_another_master_key(
    any_binaries, encrypted_cluster_factory, tde_command, os_user_tmp_path
):
    """A standby has its own copy; after a rotation on either side it still gets new keys."""
    made = encrypted_cluster_factory(any_binaries)
    copy = os_user_tmp_path / "copy"
    tde_command("keystore", "backup", copy, "-k", made.keystore.path)
    rotate(tde_command, made.keystore.path)
    place = make_directory(made, os_user_tmp_path / "ts")
    tde_command(
        "tablespace", "create", "space", "--location", place, "-D", made.data_directory, *SECRET
    )
    made.query("CREATE TABLE t TABLESPACE space AS SELECT 'there' AS x")
    rotate(tde_command, copy)
    added = tde_command("keystore", "copy", made.keystore.path, copy, *SECRET)
    assert added.stdout.count("Added keys/") == 1
    again = tde_command("keystore", "copy", made.keystore.path, copy, *SECRET)
    assert "lacks no key" in again.stdout
    assert (
        inspect_keystore(copy).master_key_id != inspect_keystore(made.keystore.path).master_key_id
    )
    made.cluster.stop()
    shutil.chown(copy, made.data_directory.stat().st_uid)
    for file in copy.rglob("*"):
        shutil.chown(file, made.data_directory.stat().st_uid)
    with Keystore.open(copy, PASSPHRASE) as opened:
        other = RunningCluster(made.cluster, opened)
        other.start()
        assert other.query("SELECT x FROM t") == [("there",)]
        other.cluster.stop()


def test_nobody_but_who_opens_the_keystore_gives_a_server_a_master_key(
    any_binaries, encrypted_cluster_factory, os_user_tmp_path
):
    made = encrypted_cluster_factory(any_binaries)
    keys = read_published_status(made.cluster.pid).keys
    with Keystore.create(os_user_tmp_path / "other", PASSPHRASE) as other:
        forged = seal_master_key(
            keys.exchange_key, keys.message + 1, made.keystore.uuid, other.master_key_id,
            other._open_master_key(), bytes(32),
        )  # fmt: skip
    altered = bytearray(made.keystore.seal_for(keys.exchange_key, keys.message + 2))
    altered[100] ^= 1
    other_server = made.keystore.seal_for(bytes(range(32)), keys.message + 3)
    assert len(forged) == MESSAGE_BYTES
    for content, problem in (
        (forged, "its sender has not opened the keystore"),
        (altered, "it is sealed for another server, or was altered"),
        (other_server, "it is sealed for another server, or was altered"),
    ):
        before = read_published_status(made.cluster.pid).keys.message
        with keys.message_file.open("wb") as file:
            # Servers of other tests that start meanwhile remove what nobody has locked.
            fcntl.flock(file, fcntl.LOCK_SH)
            file.write(content)
            file.flush()
            os.kill(made.cluster.pid, signal.SIGHUP)
            found = wait_for_answer(made, before)
            keys.message_file.unlink()
        assert found.problem == problem
        assert found.master_key_id == made.keystore.master_key_id
    # The true one is taken afterwards all the same.
    send_master_key(made.keystore, servers_with_keys_of(made.keystore.uuid, made.keystore.path))
    assert read_published_status(made.cluster.pid).keys.problem == ""


def wait_for_answer(made: RunningCluster, before: int):
    deadline = time.monotonic() + 60
    while True:
        found = read_published_status(made.cluster.pid).keys
        if found.message > before:
            return found
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_rotation_that_could_not_reach_a_server_is_finished_by_the_next(
    any_binaries, encrypted_cluster_factory, tde_command, os_user_tmp_path
):
    made = encrypted_cluster_factory(any_binaries)
    made.query("CREATE TABLE t AS SELECT 'kept' AS x")

    def unreachable(keystore: Keystore) -> None:
        raise KeystoreError("the server cannot be reached")

    with pytest.raises(KeystoreError, match="cannot be reached"):
        rotate_master_key(made.keystore.path, PASSPHRASE, unreachable)
    # The server has the old master key, and goes on with it, after a crash as well.
    assert made.query("SELECT x FROM t") == [("kept",)]
    place = make_directory(made, os_user_tmp_path / "ts")
    create = ["tablespace", "create", "space", "--location", place]
    create += ["-D", made.data_directory, *SECRET]
    refused = tde_command(*create, exit_code=5)
    assert "the rotation of the master key" in refused.stderr
    assert f"tde keystore rotate --keystore {made.keystore.path}" in refused.stderr
    checked = tde_command("keystore", "verify", "-k", made.keystore.path, *SECRET, exit_code=1)
    assert "keys.old" in checked.stdout + checked.stderr
    rotate(tde_command, made.keystore.path)
    tde_command(*create)
    tde_command("keystore", "verify", "-k", made.keystore.path, *SECRET)
    made.query("CREATE TABLE u TABLESPACE space AS SELECT 1 AS x")
    made.cluster.stop()


def test_servers_that_start_and_stop_meanwhile_find_their_keys(
    any_binaries, encrypted_cluster_factory, os_user_tmp_path
):
    made = encrypted_cluster_factory(any_binaries)
    made.keystore.enable_auto_open()
    made.cluster.stop()
    stopping = threading.Event()
    rotations: list[int] = []
    errors: list[TdeError] = []
    started: list[object] = []
    pause = 2.0  # Seconds; on a busy machine a start takes longer than two rotations.

    def tell(keystore: Keystore) -> None:
        send_master_key(keystore, servers_with_keys_of(keystore.uuid, keystore.path))

    def go_on() -> None:
        try:
            while not stopping.is_set():
                rotate_master_key(made.keystore.path, PASSPHRASE, tell).close()
                rotations.append(1)
                stopping.wait(pause)
        except TdeError as error:
            errors.append(error)

    rotating = threading.Thread(target=go_on)
    rotating.start()
    try:
        while not errors and (len(started) < 4 or len(rotations) < 3):
            with Keystore.open_automatically(made.keystore.path) as opened:
                now = RunningCluster(made.cluster, opened)
                try:
                    now.start()
                except KeystoreBusyError:
                    pause *= 2
                    continue
                started.append(now.query("SELECT 1"))
                now.cluster.stop()
    finally:
        stopping.set()
        rotating.join()
    assert errors == []


def test_a_server_without_x25519_starts_and_is_rotated_when_it_has_stopped(
    any_binaries, encrypted_cluster_factory, tde_command, os_user_tmp_path
):
    """OpenSSL's FIPS providers of some releases have none."""
    source = os_user_tmp_path / "none.c"
    source.write_text("void *EVP_PKEY_Q_keygen(void) { return (void *)0; }\n")
    library = os_user_tmp_path / "none.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source], check=True)
    made = encrypted_cluster_factory(any_binaries, start=False)
    made.start(environment={**os.environ, "LD_PRELOAD": str(library)})
    refused = tde_command("keystore", "rotate", "-k", made.keystore.path, *SECRET, exit_code=5)
    assert f"the server with process id {made.cluster.pid} has no X25519" in refused.stderr
    assert inspect_keystore(made.keystore.path).master_key_id == made.keystore.master_key_id
    made.cluster.stop()
    rotate(tde_command, made.keystore.path)
    now = reopened(made)
    now.start()
    assert now.query("SELECT 1") == [(1,)]
    now.keystore.close()
