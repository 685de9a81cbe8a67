"""``tde pg backup`` and ``verify-backup``: what was altered is found, and what is missing named."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.backup.conftest import Run
from tests.postgres.canaries import CANARY, files_with


def test_what_was_taken_is_proven(made, take, verify, tde_command: Run) -> None:
    directory = take()
    assert {"base.tar", "pg_wal.tar", "backup_manifest"} < {p.name for p in directory.iterdir()}
    assert files_with(CANARY, directory) == []
    found = verify(directory)
    assert found["is_good"]
    assert len(found["seal"]["keys"]) >= 4
    shown = tde_command(
        *("pg", "verify-backup", directory, "-k", made.keystore.path, "--passphrase-fd", "0")
    )
    assert "is what was taken on" in shown.stdout


@pytest.mark.parametrize("name", ["base.tar", "pg_wal.tar", "backup_manifest"])
def test_a_byte_that_was_altered_in_an_archive(take, verify, name: str) -> None:
    directory = take()
    content = bytearray((directory / name).read_bytes())
    content[len(content) // 2] ^= 1
    (directory / name).write_bytes(content)
    assert verify(directory, exit_code=1)["problems"] == [f"{name} was altered"]


def test_what_was_altered_in_a_plain_backup(take, verify, os_user_tmp_path: Path) -> None:
    place = os_user_tmp_path / "space"
    (own,) = place.iterdir()
    directory = take("--format", "plain", "-T", f"{own}={os_user_tmp_path / 'copied'}")
    assert verify(directory)["is_good"]
    table = next(
        p for p in (os_user_tmp_path / "copied").rglob("*") if p.is_file() and p.stat().st_size
    )
    content = bytearray(table.read_bytes())
    content[100] ^= 1
    table.write_bytes(content)
    wal = next(p for p in (directory / "pg_wal").iterdir() if p.is_file())
    (directory / "PG_VERSION").unlink()
    (directory / "base" / "planted").write_text("x")
    problems = verify(directory, exit_code=1)["problems"]
    assert len(problems) == 3
    assert "PG_VERSION is missing" in problems
    assert "base/planted was added" in problems
    wal.write_bytes(wal.read_bytes()[:-1])
    assert verify(directory, exit_code=1)["problems"] == [f"pg_wal/{wal.name} was altered"]


def test_a_seal_is_not_made_by_others(
    made, take, tde_command: Run, keystore_factory, os_user_tmp_path: Path
) -> None:
    """The attack: an altered backup with a manifest and a seal that were made anew."""
    directory = take()
    seal = directory.with_name("backup.seal.json")
    command = ("pg", "verify-backup", directory, "--passphrase-fd", "0", "-k")
    document = json.loads(seal.read_text())
    document["files"]["base.tar"] = "0" * 64
    seal.write_text(json.dumps(document))
    refused = tde_command(*command, made.keystore.path, exit_code=1)
    assert "was altered, or is not of a cluster with this keystore" in refused.stderr
    other = keystore_factory("other")
    assert "needs a copy of the keystore" in tde_command(*command, other.path, exit_code=5).stderr
    seal.unlink()
    assert "has no seal" in tde_command(*command, made.keystore.path, exit_code=1).stderr


def test_a_key_that_is_missing_is_named(made, take, tde_command: Run) -> None:
    directory = take()
    key = next(path for path in (made.keystore.path / "keys").iterdir() if len(path.stem) == 32)
    key.rename(made.keystore.path.parent / key.name)
    shown = tde_command(
        *("pg", "verify-backup", directory, "-k", made.keystore.path, "--passphrase-fd", "0"),
        exit_code=5,
    )
    assert f"lacks the key {key.name}" in shown.stdout


def test_incremental_backups_are_sealed_too(made, take, verify, tde_command: Run) -> None:
    if made.cluster.binaries.major < 17:
        pytest.skip("incremental backups came with PostgreSQL 17")
    first = take()
    made.query("INSERT INTO t VALUES ('more')")
    second = take("--incremental", first / "backup_manifest", name="second")
    assert verify(second)["is_good"]
    refused = tde_command(
        *("pg", "restore", second, "-D", second.with_name("restored"), "--passphrase-fd", "0"),
        *("-k", made.keystore.path),
        exit_code=1,
    )
    assert "by itself it is no cluster" in refused.stderr
    assert (second / "base.tar").stat().st_size < (first / "base.tar").stat().st_size


def test_what_fails_leaves_nothing(made, take, tde_command: Run, os_user_tmp_path: Path) -> None:
    directory = take()
    again = ("pg", "backup", directory, "-D", made.data_directory, "--passphrase-fd", "0")
    tde_command(*again, exit_code=1)
    assert (directory / "base.tar").exists()
    shutil.rmtree(directory)
    # Its seal is still there, and would be taken for that of the next one.
    assert "cannot be made" in tde_command(*again, exit_code=1).stderr
    assert not directory.exists()
    other = os_user_tmp_path / "other"
    tde_command("pg", "backup", other, *again[3:], "--max-rate", "nonsense", exit_code=1)
    assert not other.exists()
    assert not other.with_name("other.seal.json").exists()


def test_links_do_not_pass_for_files(take, verify, os_user_tmp_path: Path) -> None:
    """The attack: what is verified now lies where it can be changed after the restore."""
    (own,) = (os_user_tmp_path / "space").iterdir()
    directory = take("--format", "plain", "-T", f"{own}={os_user_tmp_path / 'copied'}")
    elsewhere = os_user_tmp_path / "elsewhere"
    for name in ("postgresql.conf", "base"):
        (directory / name).rename(elsewhere)
        (directory / name).symlink_to(elsewhere)
        problems = verify(directory, exit_code=1)["problems"]
        assert any("is reached by a link" in problem for problem in problems)
        (directory / name).unlink()
        elsewhere.rename(directory / name)
    (directory / "loop").symlink_to(directory)
    assert verify(directory, exit_code=1)["problems"] == ["loop was added"]


def test_an_older_backup_is_told_by_its_time(take, verify) -> None:
    """The attack: an old backup, with its good seal, in the place of a new one."""
    directory = take()
    assert verify(directory, "--taken-after", "2020-01-01T00:00:00")["is_good"]
    (problem,) = verify(directory, "--taken-after", "2099-01-01T00:00:00", exit_code=1)["problems"]
    assert "a newer one was expected" in problem
