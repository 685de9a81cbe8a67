"""``tde pg restore``: sealed backups become clusters, as they were or as they were at a moment."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.backup.conftest import Run
from tests.conftest import RunningCluster
from tests.postgres.canaries import CANARY, files_with
from tests.postgres.cluster_copies import open_copy

Restore = Callable[..., RunningCluster]


@pytest.fixture
def restore(made, encrypted_cluster_factory, os_user_tmp_path: Path, tde_command: Run) -> Restore:
    """Restore a backup and start it; the tablespace goes to a place of its own."""

    def run(backup: Path, *options: object) -> RunningCluster:
        target = os_user_tmp_path / "restored"
        (space,) = (os_user_tmp_path / "space").iterdir()
        tde_command(
            *("pg", "restore", backup, "-D", target, "-k", made.keystore.path),
            *("-T", f"{space}={os_user_tmp_path / 'space2'}", "--passphrase-fd", "0"),
            *("--bindir", made.cluster.binaries.bindir, *options),
        )
        server = open_copy(encrypted_cluster_factory, made, target, made.keystore)
        server.start({})
        return server

    return run


def settle(server: RunningCluster) -> None:
    """Wait until recovery has ended."""
    deadline = time.monotonic() + 120
    while server.query("SELECT pg_is_in_recovery()") != [(False,)]:
        assert time.monotonic() < deadline
        time.sleep(0.1)


def archive_all(made: RunningCluster) -> None:
    segment = made.query("SELECT pg_walfile_name(pg_switch_wal() - 1)")[0][0]
    deadline = time.monotonic() + 120
    query = f"SELECT coalesce(last_archived_wal >= '{segment}', false) FROM pg_stat_archiver"
    while made.query(query) != [(True,)]:
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_backup_is_restored_with_its_tablespaces(
    made, take, restore: Restore, os_user_tmp_path: Path
) -> None:
    backup = take()
    made.query("DELETE FROM t")
    server = restore(backup)
    settle(server)
    assert server.query("SELECT count(*) FROM t") == [(100,)]
    assert server.query("SHOW archive_mode") == [("off",)]
    locations = server.query(
        "SELECT pg_tablespace_location(oid) FROM pg_tablespace WHERE spcname = 'secret'"
    )
    assert locations == [(str(os_user_tmp_path / "space2"),)]
    assert made.query("SELECT count(*) FROM t") == [(0,)]
    assert files_with(CANARY, server.data_directory, os_user_tmp_path / "space2") == []


def test_recovery_ends_at_a_moment(made, take, restore: Restore, os_user_tmp_path: Path) -> None:
    backup = take()
    made.query("INSERT INTO t VALUES ('later')")
    (moment,) = made.query("SELECT clock_timestamp()::text")[0]
    made.query("DELETE FROM t")
    archive_all(made)
    archive = os_user_tmp_path / "archive"
    server = restore(backup, "--archive", archive, "--target-time", moment)
    settle(server)
    assert server.query("SELECT count(*) FROM t") == [(101,)]


def test_nothing_is_made_of_what_was_altered(
    made, take, tde_command: Run, os_user_tmp_path: Path
) -> None:
    backup = take()
    target = os_user_tmp_path / "restored"
    command = ("pg", "restore", backup, "-D", target, "-k", made.keystore.path)
    command = (*command, "--passphrase-fd", "0")
    archive = backup / "base.tar"
    content = archive.read_bytes()
    archive.write_bytes(content[:-512] + bytes([1]) + bytes(511))
    assert "is not what was taken" in tde_command(*command, exit_code=1).stderr
    archive.write_bytes(content)
    # The tablespace would go where the running server has it.
    assert "is not empty" in tde_command(*command, exit_code=1).stderr
    assert not target.exists()
    assert made.query("SELECT count(*) FROM t") == [(100,)]
    key = next(path for path in (made.keystore.path / "keys").iterdir() if len(path.stem) == 32)
    key.rename(made.keystore.path.parent / key.name)
    assert f"lacks keys of this backup: {key.name}" in tde_command(*command, exit_code=5).stderr
    assert not target.exists()


def test_a_target_needs_an_archive(made, take, tde_command: Run, os_user_tmp_path: Path) -> None:
    command = ("pg", "restore", take(), "-D", os_user_tmp_path / "restored")
    refused = tde_command(
        *(*command, "-k", made.keystore.path, "--passphrase-fd", "0", "--target-lsn", "0/1"),
        exit_code=1,
    )
    assert "needs the WAL that leads to it" in refused.stderr


def test_only_what_follows_the_archive_may_archive(
    made, take, tde_command: Run, os_user_tmp_path: Path
) -> None:
    """The accident: segments of the original's names, over those in the archive."""
    refused = tde_command(
        *("pg", "restore", take(), "-D", os_user_tmp_path / "restored", "--archiving"),
        *("-k", made.keystore.path, "--passphrase-fd", "0"),
        exit_code=1,
    )
    assert "has to begin where the archive ends" in refused.stderr


def test_a_backup_of_a_standby_becomes_no_standby(
    made, take, restore: Restore, os_user_tmp_path: Path
) -> None:
    """The accident: a restored copy that connects to production, and takes its standby's slot."""
    made.query("ALTER SYSTEM SET primary_conninfo = 'host=/nowhere'")
    made.query("ALTER SYSTEM SET recovery_target_time = '2020-01-01'")
    made.query("ALTER SYSTEM SET archive_cleanup_command = 'touch /nowhere/cleaned'")
    server = restore(take(), "--archive", os_user_tmp_path / "archive")
    settle(server)
    assert server.query("SELECT count(*) FROM t") == [(100,)]
    for name in ("primary_conninfo", "recovery_target_time", "archive_cleanup_command"):
        assert server.query(f"SHOW {name}") == [("",)]
