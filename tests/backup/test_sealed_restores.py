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


def plain_place(os_user_tmp_path: Path, name: str) -> tuple[str, Path]:
    """Return the option that puts the tablespace beside a plain backup, and that place."""
    (space,) = (os_user_tmp_path / "space").iterdir()
    place = os_user_tmp_path / f"{name}-space"
    return f"{space}={place}", place


def test_a_plain_backup_is_restored_with_its_tablespaces(
    made, take, encrypted_cluster_factory, os_user_tmp_path: Path, tde_command: Run
) -> None:
    mapping, place = plain_place(os_user_tmp_path, "plain")
    backup = take("--format", "plain", "-T", mapping, name="plain")
    target, space = os_user_tmp_path / "restored", os_user_tmp_path / "space2"
    command = ("pg", "restore", backup, "-D", target, "-k", made.keystore.path)
    command = (*command, "--bindir", made.cluster.binaries.bindir, "--passphrase-fd", "0")
    refused = tde_command(*command, exit_code=1)
    assert f"-T {place}=DIR" in refused.stderr
    assert not target.exists()
    tde_command(*command, "-T", f"{place}={space}")
    before = sorted(path for path in place.rglob("*"))
    server = open_copy(encrypted_cluster_factory, made, target, made.keystore)
    server.start({})
    settle(server)
    assert server.query("SELECT count(*) FROM t") == [(100,)]
    server.query("INSERT INTO t SELECT repeat('x', 1000) FROM generate_series(1, 100)")
    server.query("CHECKPOINT")
    # The backup is as it was: what the server writes goes into its own directory.
    assert sorted(path for path in place.rglob("*")) == before
    tde_command("pg", "verify-backup", backup, "-k", made.keystore.path, "--passphrase-fd", "0")


def test_a_tablespace_of_a_plain_backup_that_was_altered(
    made, take, os_user_tmp_path: Path, tde_command: Run
) -> None:
    mapping, place = plain_place(os_user_tmp_path, "plain")
    backup = take("--format", "plain", "-T", mapping, name="plain")
    files = [path for path in place.rglob("*") if path.is_file()]
    table = max(files, key=lambda path: path.stat().st_size)
    table.write_bytes(table.read_bytes()[:-1] + b"x")
    target = os_user_tmp_path / "restored"
    refused = tde_command(
        *("pg", "restore", backup, "-D", target, "-k", made.keystore.path),
        *("-T", f"{place}={os_user_tmp_path / 'space2'}", "--passphrase-fd", "0"),
        exit_code=1,
    )
    assert "is not what was taken" in refused.stderr
    assert not target.exists()


@pytest.mark.parametrize("form", ["tar", "plain"])
def test_incremental_backups_are_restored_with_those_before(
    form: str, made, encrypted_cluster_factory, take, os_user_tmp_path: Path, tde_command: Run
) -> None:
    if made.cluster.binaries.major < 17:
        pytest.skip("incremental backups came with PostgreSQL 17")
    chain = []
    spaces = []
    for number in range(3):
        mapping, place = plain_place(os_user_tmp_path, f"b{number}")
        options = ["--format", form, *(["-T", mapping] if form == "plain" else [])]
        if chain:
            options += ["--incremental", str(chain[-1] / "backup_manifest")]
        chain.append(take(*options, name=f"b{number}"))
        spaces.append(place if form == "plain" else Path(mapping.partition("=")[0]))
        made.query(f"INSERT INTO t VALUES ('{number}')")
        made.query("CHECKPOINT")
    target, space = os_user_tmp_path / "restored", os_user_tmp_path / "space2"
    command = ("-D", target, "-k", made.keystore.path, "--passphrase-fd", "0")
    command = (*command, "-T", f"{spaces[-1]}={space}", "--bindir", made.cluster.binaries.bindir)
    for wrong, message in ((chain[1:], "incremental"), ([chain[0], chain[2]], "combine")):
        refused = tde_command("pg", "restore", *wrong, *command, exit_code=1)
        assert message in refused.stderr
        assert not target.exists()
        assert not space.exists() or not any(space.iterdir())
    tde_command("pg", "restore", *chain, *command)
    assert not target.with_name("restored.combining").exists()
    server = open_copy(encrypted_cluster_factory, made, target, made.keystore)
    server.start({})
    settle(server)
    assert server.query("SELECT count(*) FROM t") == [(102,)]
    assert files_with(CANARY, server.data_directory, space) == []
