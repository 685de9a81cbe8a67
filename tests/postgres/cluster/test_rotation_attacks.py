"""Programs of the server's user, a DBA and other users, while the master key is rotated."""

from __future__ import annotations

import os
import secrets
import signal
import struct
import sys
from pathlib import Path

import psycopg2
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from tde.algorithms import Algorithm
from tde.errors import KeystoreError
from tde.keystore import KeyOwner, Keystore, inspect_keystore, rotate_master_key
from tde.postgres import encrypt_cluster
from tde.postgres.cluster.messages import tell_servers
from tde.postgres.server.os_user import run_as
from tde.postgres.server.published import read_published_status
from tests.conftest import RunningCluster
from tests.keystore.cheap_passphrase import PASSPHRASE

SECRET = ("--passphrase-fd", "0")
STATUS_TEXTS = 8 * 8 + 4096 + 4096 + 256
EXCHANGE_KEY = STATUS_TEXTS + 16
MESSAGE = EXCHANGE_KEY + 32 + 16


@pytest.fixture
def made(encrypted_cluster_factory, any_binaries) -> RunningCluster:
    return encrypted_cluster_factory(any_binaries)


def status_file(made: RunningCluster) -> Path:
    message_file = read_published_status(made.cluster.pid).keys.message_file
    return message_file.with_name(message_file.name.removesuffix(".message"))


def write_at(path: Path, offset: int, content: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(content)


def test_a_program_of_the_servers_user_is_not_given_the_master_key(made, tde_command):
    """The attack: COPY … TO PROGRAM without the interposer writes a public key of its own."""
    own = X25519PrivateKey.generate().public_key().public_bytes_raw()
    file = status_file(made)
    genuine = file.read_bytes()[EXCHANGE_KEY : EXCHANGE_KEY + 32]
    for planted in (own, b"\1" + bytes(31)):
        write_at(file, EXCHANGE_KEY, planted)
        assert read_published_status(made.cluster.pid).keys.exchange_key == planted
        failed = tde_command("keystore", "rotate", "-k", made.keystore.path, *SECRET, exit_code=5)
        assert f"process id {made.cluster.pid} publishes is not its own" in failed.stderr
        assert "HINT" in failed.stderr
    # The server goes on, with the master key of before, and gets the new one in the end.
    write_at(file, EXCHANGE_KEY, genuine)
    tde_command("keystore", "rotate", "-k", made.keystore.path, *SECRET)
    now = inspect_keystore(made.keystore.path).master_key_id
    assert read_published_status(made.cluster.pid).keys.master_key_id == now


def test_a_forged_number_does_not_block_later_rotations(made, tde_command):
    """The attack: a DBA exports bytes to the message's place and reloads."""
    keys = read_published_status(made.cluster.pid).keys
    header = struct.pack(">8sIIQ8x16s", b"TDEMSG\0\1", 1, 80, 2**64 - 1, made.keystore.uuid.bytes)
    keys.message_file.write_bytes(header.ljust(176, b"\0"))
    os.chown(keys.message_file, *owner_of(made))
    os.kill(made.cluster.pid, signal.SIGHUP)
    made.query("SELECT pg_sleep(0.3)")
    tde_command("keystore", "rotate", "-k", made.keystore.path, *SECRET)
    assert read_published_status(made.cluster.pid).keys.message == keys.message + 1


def owner_of(made: RunningCluster) -> tuple[int, int]:
    status = made.data_directory.stat()
    return status.st_uid, status.st_gid


def test_a_record_of_a_retired_master_key_is_not_taken(made, os_user_tmp_path):
    """The attack: who has a leaked copy makes a record for the tablespace that is being made."""
    with rotate_master_key(made.keystore.path, PASSPHRASE, tell_servers) as rotated:
        key_id = rotated.create_named_key(Algorithm.AES256)
    record = made.keystore.path / "keys" / f"{key_id.hex}.key"
    location = os_user_tmp_path / "ts" / f"tde-{key_id.hex}"
    location.mkdir(parents=True)
    for place in (location.parent, location):
        os.chown(place, *owner_of(made))
        place.chmod(0o700)
    # The fixture's keystore is the copy from before.
    record.write_bytes(made.keystore.new_record(KeyOwner.named(key_id), Algorithm.AES256))
    with pytest.raises(psycopg2.Error):
        made.query(f"CREATE TABLESPACE ts LOCATION '{location}'")
    assert "wrapped with another master key" in made.cluster.default_log.read_text()


def test_a_server_that_cannot_be_seen_goes_on_and_needs_a_restart(made, os_user_tmp_path):
    """The accident: somebody clears /dev/shm; docs/threat-model.md says what comes of it."""
    made.query("CREATE TABLE t AS SELECT 'kept' AS x")
    status_file(made).unlink()
    with rotate_master_key(made.keystore.path, PASSPHRASE, tell_servers) as rotated:
        key_id = rotated.create_named_key(Algorithm.AES256)
        location = os_user_tmp_path / "ts" / f"tde-{key_id.hex}"
        location.mkdir(parents=True)
        for place in (location.parent, location):
            os.chown(place, *owner_of(made))
            place.chmod(0o700)
        assert made.query("SELECT x FROM t") == [("kept",)]
        with pytest.raises(psycopg2.Error):
            made.query(f"CREATE TABLESPACE ts LOCATION '{location}'")
        assert "wrapped with another master key" in made.cluster.default_log.read_text()
        made.cluster.stop()
        for left in location.iterdir():  # A name that PostgreSQL has made before it was refused.
            left.rmdir()
        again = RunningCluster(made.cluster, rotated)
        again.start()
        again.query(f"CREATE TABLESPACE ts LOCATION '{location}'")
        assert again.query("SELECT x FROM t") == [("kept",)]
        again.cluster.stop()


def test_the_keys_are_guarded_after_a_rotation_too(made):
    """The attack: COPY to a path that is spelled otherwise wrote over the WAL's key."""
    keystore = made.keystore.path
    rotate_master_key(keystore, PASSPHRASE, tell_servers).close()
    before = {file: file.read_bytes() for file in (keystore / "keys").iterdir()}
    around = f"{keystore.parent}/../{keystore.parent.name}/{keystore.name}"
    for name in ("keys/wal.key", "keys/new.key", "keystore.json", "keys.old/x"):
        with pytest.raises(psycopg2.Error):
            made.query(f"COPY (SELECT 'gone') TO '{around}/{name}'")
    assert {file: file.read_bytes() for file in (keystore / "keys").iterdir()} == before
    assert "where the server writes nothing" in made.cluster.default_log.read_text()
    # A directory of the server that has got the inode of the old one is its own.
    made.query("CREATE DATABASE d")
    made.query("DROP DATABASE d")


def test_a_file_of_another_user_in_the_place_of_the_message_is_named(made, os_user):
    """The attack: any local user may make files in /dev/shm."""
    if os_user is None:
        pytest.skip("takes root, to make a file of another user")
    keys = read_published_status(made.cluster.pid).keys
    keys.message_file.touch(mode=0o600)  # Root's, in a directory with the sticky bit.
    tde = Path(sys.executable).with_name("tde")
    command = [tde, "keystore", "rotate", "-k", made.keystore.path, *SECRET]
    try:
        failed = run_as(os_user, command, text=PASSPHRASE.decode())
    finally:
        keys.message_file.unlink()
    assert failed.returncode == 5
    assert f"{keys.message_file}, where a message for the server" in failed.stderr
    assert "HINT" in failed.stderr
    assert run_as(os_user, command, text=PASSPHRASE.decode()).returncode == 0


def test_a_status_as_long_as_the_memory_is_not_read_whole(made, tde_command):
    os.truncate(status_file(made), 1 << 40)
    tde_command("keystore", "rotate", "-k", made.keystore.path, *SECRET)


def test_a_server_that_starts_meanwhile_is_told_too(made):
    with rotate_master_key(made.keystore.path, PASSPHRASE) as rotated:
        # As a start whose hand-over was made before: nobody has told it.
        assert tell_servers(rotated) == [made.cluster.pid]
        keys = read_published_status(made.cluster.pid).keys
        assert (keys.master_key_id, keys.problem) == (rotated.master_key_id, "")


def test_nothing_of_an_encryption_is_begun_in_the_middle_of_a_rotation(
    encrypted_cluster_factory, any_binaries, keystore_factory
):
    """The accident: its journal could not be believed after the rotation had been finished."""
    plain = encrypted_cluster_factory.plain(any_binaries)
    plain.cluster.stop()
    keystore = keystore_factory(f"ks-{secrets.token_hex(4)}")
    (keystore.path / "keys.new").mkdir(mode=0o700)
    os.chown(keystore.path / "keys.new", *owner_of(plain))
    with pytest.raises(KeystoreError, match="rotation"):
        encrypt_cluster(plain.cluster, keystore)
    with rotate_master_key(keystore.path, PASSPHRASE) as rotated:
        encrypt_cluster(plain.cluster, rotated)
        assert plain.cluster.marker.keystore_uuid == rotated.uuid
    assert isinstance(rotated, Keystore)
