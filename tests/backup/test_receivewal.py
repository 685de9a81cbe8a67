"""pg_receivewal with and without compression: the archive is ciphertext that stock tools unpack."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tde.postgres import run_program
from tests.decompress import decompress
from tests.postgres.canaries import CANARY, files_with
from tests.postgres.cluster_copies import base_backup, configure, make_directory, open_copy
from tests.replication.test_standbys_and_recovery import FILL, wait_until

SLOT = "receiver"


def receive(primary, directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Stream what the primary has written so far, as ``tde pg exec pg_receivewal`` does."""
    end = primary.query("SELECT pg_current_wal_insert_lsn()")[0][0]
    # The program stops only when it receives something behind the position.
    primary.query("INSERT INTO t VALUES (0, 'the end')")
    parameters = primary.cluster.connection_parameters()
    return run_program(
        primary.cluster.binaries,
        "pg_receivewal",
        [
            *("-h", str(parameters["host"]), "-p", str(parameters["port"])),
            *("-U", str(parameters["user"]), "-D", str(directory), "--no-loop"),
            *("--slot", SLOT, "--endpos", end, *arguments),
        ],
        keystore=primary.keystore,
        os_user=primary.cluster.os_user,
        timeout=60,
    )


def switch(primary) -> None:
    primary.query("INSERT INTO t VALUES (0, 'more')")
    primary.query("SELECT pg_switch_wal()")


def reserve(primary) -> None:
    primary.query(f"SELECT pg_create_physical_replication_slot('{SLOT}', true)")


def check_archive(primary, archive: Path, kind: str, suffix: str) -> None:
    """Every file holds, compressed, the bytes of the segment that the primary has."""
    files = sorted(archive.iterdir())
    assert [file.suffix for file in files[:-1]] == [suffix] * (len(files) - 1)
    assert files[-1].name.endswith(f"{suffix}.partial")
    for file in files:
        found, complete = decompress(kind, file.read_bytes())
        assert complete
        assert CANARY not in found
        segment = (primary.data_directory / "pg_wal" / file.name[:24]).read_bytes()
        if file.suffix == suffix:
            assert found == segment
        else:
            # Whoever received it may have stopped in the middle of an AES block.
            assert 0 < len(found) < len(segment)
            assert found[:-16] == segment[: len(found) - 16]


def make_primary(binaries, encrypted_cluster_factory):
    made = encrypted_cluster_factory(binaries, options={"wal_keep_size": "1GB"})
    made.query("CREATE TABLE t (id int, x text)")
    return made


def test_a_server_recovers_from_a_compressed_archive(
    binaries_older_slow, encrypted_cluster_factory, os_user_tmp_path
):
    primary = make_primary(binaries_older_slow, encrypted_cluster_factory)
    archive = make_directory(primary, os_user_tmp_path / "archive")
    reserve(primary)
    backup = os_user_tmp_path / "restored"
    base_backup(primary, backup, "--wal-method=none")
    primary.query(FILL)
    switch(primary)
    primary.query(FILL)
    # What is reported as flushed must be in the file, in the middle of a block as well.
    run = receive(primary, archive, "--compress=gzip:1", "--synchronous")
    assert run.returncode == 0, run.stderr
    check_archive(primary, archive, "gzip", ".gz")
    primary.query("SELECT pg_create_restore_point('here')")
    primary.query("DELETE FROM t")
    switch(primary)
    run = receive(primary, archive, "--compress=gzip", "--verbose")
    assert run.returncode == 0, run.stderr
    check_archive(primary, archive, "gzip", ".gz")
    assert subprocess.run(["gzip", "--test", *archive.glob("*.gz")], check=False).returncode == 0

    restored = open_copy(encrypted_cluster_factory, primary, backup, primary.keystore)
    configure(
        restored,
        [
            f"restore_command = 'gunzip < {archive}/%f.gz > %p'",
            "recovery_target_name = 'here'",
            "recovery_target_action = 'promote'",
        ],
    )
    (backup / "recovery.signal").touch()
    restored.start()
    wait_until(restored, "SELECT pg_is_in_recovery()", False)
    assert restored.query(f"SELECT count(*) FROM t WHERE x LIKE '{CANARY.decode()}%'") == [(10000,)]
    assert files_with(CANARY, backup) == []


def test_an_lz4_archive_is_ciphertext_that_lz4_unpacks(
    binaries, encrypted_cluster_factory, os_user_tmp_path
):
    if b"LZ4F_compressUpdate" not in (binaries.bindir / "pg_receivewal").read_bytes():
        pytest.skip("this PostgreSQL was built without lz4")
    primary = make_primary(binaries, encrypted_cluster_factory)
    archive = make_directory(primary, os_user_tmp_path / "archive")
    reserve(primary)
    primary.query(FILL)
    switch(primary)
    primary.query(FILL)
    run = receive(primary, archive, "--compress=lz4", "--synchronous")
    assert run.returncode == 0, run.stderr
    check_archive(primary, archive, "lz4", ".lz4")
    # It finds where to go on by decompressing what it has.
    switch(primary)
    run = receive(primary, archive, "--compress=lz4")
    assert run.returncode == 0, run.stderr
    check_archive(primary, archive, "lz4", ".lz4")
