"""WAL is not streamed to programs that would encrypt it with the keys of another cluster."""

from __future__ import annotations

from tde.algorithms import Algorithm
from tde.keystore import KeyOwner
from tde.postgres import run_program
from tests.postgres.canaries import CANARY, files_with
from tests.postgres.cluster_copies import make_directory


def run(primary, keystore, program: str, *arguments: str):
    parameters = primary.cluster.connection_parameters()
    return run_program(
        primary.cluster.binaries,
        program,
        [
            *("-h", str(parameters["host"]), "-p", str(parameters["port"])),
            *("-U", str(parameters["user"]), "-w", *arguments),
        ],
        keystore=keystore,
        os_user=primary.cluster.os_user,
        timeout=60,
    )


def foreign_keystore(factory):
    keystore = factory.keystore("foreign-keystore")
    for owner in (KeyOwner.wal(), KeyOwner.tablespace(1663), KeyOwner.tablespace(1664)):
        keystore.create_key(owner, Algorithm.AES256)
    return keystore


def forged_keystore(factory, genuine, monkeypatch):
    """Make a keystore that says it is another: a UUID stands in the clear beside the data."""
    with monkeypatch.context() as patch:
        patch.setattr("tde.keystore.keystore.uuid4", lambda: genuine.uuid)
        keystore = factory.keystore("forged-keystore")
    for owner in (KeyOwner.wal(), KeyOwner.tablespace(1663), KeyOwner.tablespace(1664)):
        keystore.create_key(owner, Algorithm.AES256)
    assert keystore.uuid == genuine.uuid
    return keystore


def logged(primary) -> str:
    return primary.cluster.default_log.read_text()


def assert_refused(primary, foreign, made) -> None:
    assert made.returncode != 0
    assert "Required key not available" in made.stderr
    (refused,) = {line for line in logged(primary).splitlines() if "refused to stream" in line}
    assert f"keystore {foreign.uuid}" in refused
    assert f"keystore {primary.keystore.uuid}" in refused
    assert "HINT: " in refused


def test_a_base_backup_with_another_keystore_gets_no_wal(
    binaries, encrypted_cluster_factory, os_user_tmp_path
):
    primary = encrypted_cluster_factory(binaries)
    foreign = foreign_keystore(encrypted_cluster_factory)
    target = os_user_tmp_path / "backup"
    options = ("-D", str(target), "--checkpoint=fast", "--no-sync")
    made = run(primary, foreign, "pg_basebackup", *options)
    assert_refused(primary, foreign, made)
    # Without streamed WAL nothing is encrypted by the program, so any keystore does.
    made = run(primary, foreign, "pg_basebackup", *options, "--wal-method=fetch")
    assert made.returncode == 0, made.stderr
    made = run(
        primary, primary.keystore, "pg_basebackup", *options[2:], "-D", f"{target}2", "-X", "stream"
    )
    assert made.returncode == 0, made.stderr


def test_an_archive_with_another_keystore_stays_empty(
    any_binaries, encrypted_cluster_factory, os_user_tmp_path
):
    primary = encrypted_cluster_factory(any_binaries)
    foreign = foreign_keystore(encrypted_cluster_factory)
    archive = make_directory(primary, os_user_tmp_path / "archive")
    primary.query(f"CREATE TABLE t AS SELECT '{CANARY.decode()}' || g FROM generate_series(1, 9) g")
    end = primary.query("SELECT pg_current_wal_insert_lsn()")[0][0]
    options = ("-D", str(archive), "--no-loop", "--endpos", end)
    assert_refused(primary, foreign, run(primary, foreign, "pg_receivewal", *options))
    assert files_with(CANARY, archive) == []
    assert all(not any(file.read_bytes()) for file in archive.iterdir())


def test_a_keystore_that_only_has_the_name_of_the_servers_gets_no_wal(
    any_binaries, encrypted_cluster_factory, os_user_tmp_path, monkeypatch
):
    """The attack: who may write to the volume names a keystore of his own in tde.json."""
    primary = encrypted_cluster_factory(any_binaries)
    forged = forged_keystore(encrypted_cluster_factory, primary.keystore, monkeypatch)
    archive = make_directory(primary, os_user_tmp_path / "archive")
    primary.query(f"CREATE TABLE t AS SELECT '{CANARY.decode()}' || g FROM generate_series(1, 9) g")
    end = primary.query("SELECT pg_current_wal_insert_lsn()")[0][0]
    options = ("-D", str(archive), "--no-loop", "--endpos", end)
    made = run(primary, forged, "pg_receivewal", *options)
    assert made.returncode != 0
    assert "Required key not available" in made.stderr
    assert "of the same UUID and with another WAL key" in logged(primary)
    assert all(not any(file.read_bytes()) for file in archive.iterdir())
    target = os_user_tmp_path / "backup"
    made = run(primary, forged, "pg_basebackup", "-D", str(target), "-c", "fast", "-X", "stream")
    assert made.returncode != 0


def test_a_new_configuration_does_not_claim_to_encrypt(
    any_binaries, encrypted_cluster_factory, os_user_tmp_path
):
    """What pg_basebackup -R writes is used later by programs without keys as well."""
    primary = encrypted_cluster_factory(any_binaries)
    target = os_user_tmp_path / "backup"
    options = ("-D", str(target), "-c", "fast", "-X", "stream", "--write-recovery-conf")
    made = run(primary, primary.keystore, "pg_basebackup", *options)
    assert made.returncode == 0, made.stderr
    written = (target / "postgresql.auto.conf").read_text()
    assert "primary_conninfo" in written
    assert "tde." not in written
    assert "options" not in written
