"""Standbys, promotion, archives and recovery to a point in time, all on ciphertext."""

from __future__ import annotations

import os
import time

from tests.postgres.canaries import CANARY, files_with, settle
from tests.postgres.cluster_copies import base_backup, configure, open_copy

TEXT = CANARY.decode()
FILL = f"INSERT INTO t SELECT g, '{TEXT}' || g FROM generate_series(1, 5000) g"


def wait_until(cluster, query: str, expected: object, seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while cluster.query(query)[0][0] != expected:
        assert time.monotonic() < deadline, f"{query} did not become {expected}"
        time.sleep(0.05)


def relation_path(cluster, name: str):
    return cluster.data_directory / cluster.query(f"SELECT pg_relation_filepath('{name}')")[0][0]


def test_a_standby_takes_over(binaries, encrypted_cluster_factory, os_user_tmp_path):
    primary = encrypted_cluster_factory(binaries)
    primary.query("CREATE TABLE t (id int, x text)")
    primary.query(FILL)
    directory = os_user_tmp_path / "standby"
    base_backup(primary, directory, "--write-recovery-conf", "--wal-method=stream")
    standby = open_copy(encrypted_cluster_factory, primary, directory, primary.keystore)
    standby.start()

    # Many small commits, so that the walreceiver writes parts of blocks.
    for i in range(200):
        primary.query(f"INSERT INTO t VALUES ({i}, '{TEXT}')")
    primary.query("VACUUM (FREEZE) t")
    wait_until(standby, "SELECT count(*) FROM t", 5200)
    target = primary.query("SELECT pg_current_wal_flush_lsn()")[0][0]
    wait_until(standby, f"SELECT pg_last_wal_replay_lsn() >= '{target}'::pg_lsn", True)
    settle(primary)
    wait_until(standby, f"SELECT pg_last_wal_replay_lsn() > '{target}'::pg_lsn", True)
    standby.query("CHECKPOINT")
    assert relation_path(standby, "t").read_bytes() == relation_path(primary, "t").read_bytes()

    # Failover: the new timeline's first segment is copied under a temporary name.
    primary.cluster.stop("immediate")
    standby.query("SELECT pg_promote()")
    standby.query(FILL)
    settle(standby)
    assert standby.query("SELECT count(*) FROM t") == [(10200,)]
    history = next((directory / "pg_wal").glob("*.history"))
    assert b"no recovery target specified" in history.read_bytes()
    assert files_with(CANARY, directory) == []
    standby.cluster.stop()
    standby.start()
    assert standby.query("SELECT count(*) FROM t") == [(10200,)]


def test_a_standby_whose_connection_string_is_written_by_hand_follows(
    any_binaries, encrypted_cluster_factory, os_user_tmp_path
):
    """Its options stay, and the setting that it encrypts WAL is added to them."""
    primary = encrypted_cluster_factory(any_binaries)
    directory = os_user_tmp_path / "standby"
    base_backup(primary, directory, "--wal-method=fetch")
    standby = open_copy(encrypted_cluster_factory, primary, directory, primary.keystore)
    parameters = primary.cluster.connection_parameters()
    conninfo = " ".join(f"{key}={parameters[key]}" for key in ("host", "port", "user"))
    options = "options=''-c wal_sender_timeout=77s''"
    (directory / "standby.signal").touch()
    configure(standby, [f"primary_conninfo = '{conninfo} {options}'"])
    standby.start()
    primary.query("CREATE TABLE t AS SELECT 1 AS x")
    wait_until(standby, "SELECT count(*) FROM pg_class WHERE relname = 't'", 1)
    ((status, used),) = standby.query("SELECT status, conninfo FROM pg_stat_wal_receiver")
    assert status == "streaming"
    # Without it no WAL would come; but nobody shall copy it from there.
    assert "-c wal_sender_timeout=77s" in used
    assert "tde." not in used


def test_an_archive_brings_back_a_point_in_time(
    binaries, encrypted_cluster_factory, os_user_tmp_path, os_user
):
    archive = os_user_tmp_path / "archive"
    archive.mkdir()
    if os_user is not None:
        os.chown(archive, os_user.uid, os_user.gid)
    primary = encrypted_cluster_factory(
        binaries, options={"archive_mode": "on", "archive_command": f"cp %p {archive}/%f"}
    )
    primary.query("CREATE TABLE t (id int, x text)")
    backup = os_user_tmp_path / "restored"
    base_backup(primary, backup, "--wal-method=none")
    primary.query(FILL)
    primary.query("SELECT pg_create_restore_point('here')")
    primary.query("DELETE FROM t")
    segment = primary.query("SELECT pg_walfile_name(pg_switch_wal() - 1)")[0][0]
    wait_until(primary, f"SELECT last_archived_wal >= '{segment}' FROM pg_stat_archiver", True)
    assert files_with(CANARY, archive) == []

    restored = open_copy(encrypted_cluster_factory, primary, backup, primary.keystore)
    configure(
        restored,
        [
            f"restore_command = 'cp {archive}/%f %p'",
            "recovery_target_name = 'here'",
            "recovery_target_action = 'promote'",
        ],
    )
    (backup / "recovery.signal").touch()
    restored.start()
    wait_until(restored, "SELECT pg_is_in_recovery()", False)
    assert restored.query("SELECT count(*) FROM t") == [(5000,)]
    restored.query(FILL)
    restored.cluster.stop("immediate")
    restored.start()
    assert restored.query("SELECT count(*) FROM t") == [(10000,)]
    assert files_with(CANARY, backup) == []


def test_logical_decoding_spills_ciphertext(binaries, encrypted_cluster_factory):
    """Transactions larger than logical_decoding_work_mem go through files and back."""
    options = {"wal_level": "logical", "logical_decoding_work_mem": "64kB"}
    cluster = encrypted_cluster_factory(binaries, options=options)
    cluster.query("CREATE TABLE t (id int, x text)")
    cluster.query("SELECT pg_create_logical_replication_slot('slot', 'pgoutput')")
    cluster.query("CREATE PUBLICATION everything FOR ALL TABLES")
    cluster.query(FILL)
    changes = cluster.query(
        "SELECT count(*) FROM pg_logical_slot_get_binary_changes('slot', NULL, NULL,"
        " 'proto_version', '1', 'publication_names', 'everything')"
    )
    assert changes[0][0] >= 5000
    spilled = cluster.query("SELECT spill_bytes > 0 FROM pg_stat_replication_slots")
    assert spilled == [(True,)]
    assert files_with(CANARY, cluster.data_directory) == []
