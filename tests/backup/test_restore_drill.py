"""``tde pg restore-drill``: a backup that can be used is told from one that cannot."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.backup.conftest import Run, make_directory_for


@pytest.fixture
def scratch(os_user_tmp_path: Path, os_user) -> Path:
    return make_directory_for(os_user, os_user_tmp_path / "scratch")


def drill(
    made, backup: Path, scratch: Path, tde_command: Run, *options: object, code: int = 0
) -> Any:
    shown = tde_command(
        *("pg", "restore-drill", backup, "--scratch", scratch, "-k", made.keystore.path),
        *("--bindir", made.cluster.binaries.bindir, "--passphrase-fd", "0", "--json", *options),
        exit_code=code,
    )
    return json.loads(shown.stdout)


def test_a_good_backup(made, take, scratch: Path, tde_command: Run, os_user_tmp_path: Path) -> None:
    made.query("CREATE INDEX ON t (md5(text))")
    backup = take()
    made.query("INSERT INTO t VALUES ('later')")
    found = drill(made, backup, scratch, tde_command, "--archive", os_user_tmp_path / "archive")
    assert found["is_good"]
    assert [step["name"] for step in found["steps"]] == [
        *("verify", "restore", "recover", "amcheck", "audit"),
    ]
    assert list(scratch.iterdir()) == []
    # The server goes on, and its archive has got nothing from the copy.
    assert made.query("SELECT count(*) FROM t") == [(101,)]
    names = [path.name for path in (os_user_tmp_path / "archive").iterdir()]
    assert not [name for name in names if name.startswith("00000002")]


def test_a_backup_that_was_altered(made, take, scratch: Path, tde_command: Run) -> None:
    backup = take()
    (backup / "base.tar").write_bytes((backup / "base.tar").read_bytes()[:-1024])
    found = drill(made, backup, scratch, tde_command, code=1)
    assert not found["is_good"]
    assert found["steps"][-1]["problems"] == ["base.tar was altered"]
    assert list(scratch.iterdir()) == []


def test_an_archive_without_more_is_no_fault_and_the_copy_can_be_kept(
    made, take, scratch: Path, tde_command: Run
) -> None:
    found = drill(made, take(), scratch, tde_command, "--archive", scratch / "nowhere", "--keep")
    assert found["is_good"]
    kept = sorted(path.name.partition(".")[2] for path in scratch.iterdir())
    assert kept == ["", "log", "tablespaces"]


def test_recovery_that_fails(made, take, scratch: Path, tde_command: Run) -> None:
    """A segment of the archive that is no WAL: the backup is good, and what follows is not."""
    backup = take()
    archive = scratch.parent / "archive"
    for segment in archive.iterdir():
        segment.write_bytes(bytes(segment.stat().st_size))
    (archive / "00000002.history").write_text("nonsense\n")
    found = drill(made, backup, scratch, tde_command, "--archive", archive, code=1)
    assert [step["name"] for step in found["steps"]][-1] == "recover"
    (log,) = scratch.iterdir()
    assert "syntax error in history file" in log.read_text()
