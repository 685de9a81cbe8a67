"""Tar backups with streamed WAL, the default method of ``pg_basebackup --format=tar``."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tde.postgres import OsUser
from tests.postgres.canaries import CANARY, files_with
from tests.postgres.cluster_copies import base_backup, open_copy

TEXT = CANARY.decode()
# Small segments, so that one backup streams several; none of them may be recycled meanwhile.
SEGMENTS = ["--wal-segsize=1"]
OPTIONS = {"wal_keep_size": "1GB", "max_wal_size": "2GB"}
TAR = ("--format=tar", "--wal-method=stream")
BLOCK = 8192


@contextmanager
def rows_being_inserted(cluster) -> Iterator[None]:
    """Insert canaries, each batch about a segment of WAL, from before the block to its end."""
    insert = f"INSERT INTO t SELECT '{TEXT}' || g FROM generate_series(1, 8000) g"
    cluster.query(insert)
    done = threading.Event()

    def run() -> None:
        while not done.wait(0.02):
            cluster.query(insert)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def take_backup(cluster, directory: Path, *arguments: str) -> None:
    """Take a tar backup that lasts for some segments of WAL."""
    with rows_being_inserted(cluster):
        base_backup(cluster, directory, *TAR, "--max-rate=20M", *arguments)


def extract(backup: Path, directory: Path, os_user: OsUser | None) -> Path:
    """Restore a tar backup with the tar of the system, as the manual of PostgreSQL says."""
    for name, target in (("base", directory), ("pg_wal", directory / "pg_wal")):
        target.mkdir(mode=0o700, exist_ok=True)
        (file,) = backup.glob(f"{name}.tar*")
        subprocess.run(["tar", "-xf", str(file), "-C", str(target)], check=True)
    if os_user is not None:
        for path in [directory, *directory.rglob("*")]:
            os.chown(path, os_user.uid, os_user.gid)
    return directory


def blocks(path: Path) -> list[bytes]:
    content = path.read_bytes()
    return [content[at : at + BLOCK] for at in range(0, len(content), BLOCK)]


def assert_same_segments(restored: Path, primary: Path) -> int:
    """Compare streamed segments with those that the server wrote; returns their number.

    The last one is only compared up to where the stream ended: behind it, it holds zeros.
    """
    segments = sorted(path for path in (restored / "pg_wal").iterdir() if len(path.name) == 24)
    for path in segments:
        original = primary / "pg_wal" / path.name
        assert path.stat().st_size == original.stat().st_size
        differing = [
            stored
            for stored, written in zip(blocks(path), blocks(original), strict=True)
            if stored != written
        ]
        if path == segments[-1]:
            differing = [stored for stored in differing if any(stored)]
            assert len(differing) <= 1
        else:
            assert differing == []
    return len(segments)


def restored(factory, primary, backup: Path, directory: Path):
    """Return the cluster of a backup, whose files have been compared with the primary's."""
    assert files_with(CANARY, backup) == []
    extract(backup, directory, primary.cluster.os_user)
    assert files_with(CANARY, directory) == []
    assert assert_same_segments(directory, primary.data_directory) >= 3
    return open_copy(factory, primary, directory, primary.keystore)


def test_a_server_starts_from_streamed_wal_in_a_tar_file(
    binaries_older_slow, encrypted_cluster_factory, os_user_tmp_path
):
    binaries = binaries_older_slow  # The oldest is used below.
    primary = encrypted_cluster_factory(binaries, initdb_args=SEGMENTS, options=OPTIONS)
    primary.query("CREATE TABLE t (x text)")
    take_backup(primary, os_user_tmp_path / "tar")
    backup, directory = os_user_tmp_path / "tar", os_user_tmp_path / "copy"
    copy = restored(encrypted_cluster_factory, primary, backup, directory)
    copy.start(OPTIONS)
    ((rows, canaries),) = copy.query(
        f"SELECT count(*), count(*) FILTER (WHERE x LIKE '{TEXT}%') FROM t"
    )
    assert rows == canaries >= 8000


def test_a_server_starts_from_streamed_wal_in_a_compressed_tar_file(
    binaries_older_slow, encrypted_cluster_factory, os_user_tmp_path
):
    """zlib gets ciphertext: stock gzip and tar make of the file what is in pg_wal."""
    binaries = binaries_older_slow
    primary = encrypted_cluster_factory(binaries, initdb_args=SEGMENTS, options=OPTIONS)
    primary.query("CREATE TABLE t (x text)")
    backup, directory = os_user_tmp_path / "tar", os_user_tmp_path / "copy"
    take_backup(primary, backup, "--gzip")
    unpacked = subprocess.run(
        ["gzip", "-dc", str(backup / "pg_wal.tar.gz")], check=True, capture_output=True
    ).stdout
    assert CANARY not in unpacked
    copy = restored(encrypted_cluster_factory, primary, backup, directory)
    copy.start(OPTIONS)
    assert copy.query("SELECT count(*) >= 8000 FROM t") == [(True,)]


@pytest.mark.parametrize("compression", ["--compress=none", "--gzip"])
def test_the_history_of_a_timeline_is_among_the_streamed_wal(
    any_binaries, encrypted_cluster_factory, os_user_tmp_path, compression
):
    """It is plain in the tar file as it is in pg_wal, between segments that are not."""
    primary = encrypted_cluster_factory(
        any_binaries, start=False, initdb_args=SEGMENTS, options=OPTIONS
    )
    (primary.data_directory / "standby.signal").touch()
    primary.start(OPTIONS)
    primary.query("SELECT pg_promote()")
    primary.query("CREATE TABLE t (x text)")
    take_backup(primary, os_user_tmp_path / "tar", compression)
    backup, directory = os_user_tmp_path / "tar", os_user_tmp_path / "copy"
    copy = restored(encrypted_cluster_factory, primary, backup, directory)
    history = "pg_wal/00000002.history"
    expected = (primary.data_directory / history).read_bytes()
    assert (directory / history).read_bytes() == expected
    copy.start(OPTIONS)
    assert copy.query("SELECT count(*) >= 8000 FROM t") == [(True,)]
