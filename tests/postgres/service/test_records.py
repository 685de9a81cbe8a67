"""What is written down of a registration, and when it counts."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import pytest

from tde.errors import TdeError
from tde.postgres.server.debian_layout import DebianCluster
from tde.postgres.service.records import Record, all_records, find_record, forget, mounts_of


@pytest.fixture
def record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Record:
    """That of a cluster whose files are there."""
    monkeypatch.setenv("TDE_REGISTERED", str(tmp_path / "registered"))
    configuration, data = tmp_path / "etc" / "15" / "main", tmp_path / "data"
    configuration.mkdir(parents=True)
    data.mkdir()
    (configuration / "postgresql.conf").touch()
    (data / "PG_VERSION").touch()
    cluster = DebianCluster(15, "main", configuration, data)
    programs = tmp_path / "bin\udcff"  # A name need not be UTF-8.
    return Record(cluster, programs, uuid4(), tmp_path / "ks", None, mounts_of(cluster))


def test_what_is_written_is_read(record: Record) -> None:
    assert find_record(record.cluster) is None
    record.write()
    assert find_record(record.cluster) == record
    waiting = replace(record, is_waiting=True, keystore=None, bindir=Path("/opt/pg"))
    waiting.write()
    assert all_records() == [waiting]
    forget(record.cluster)
    forget(record.cluster)
    assert all_records() == []


def test_a_cluster_is_gone_without_configuration_and_data(record: Record) -> None:
    assert not record.is_gone
    (record.cluster.directory / "postgresql.conf").unlink()
    assert not record.is_gone
    (record.cluster.data_directory / "PG_VERSION").unlink()
    assert record.is_gone
    # As when what has them is not mounted now.
    assert not replace(record, mounts=(record.cluster.data_directory,)).is_gone


def test_what_cannot_be_looked_at_is_not_gone(record: Record, monkeypatch) -> None:
    def refuse(path: Path) -> None:
        raise PermissionError(path)

    monkeypatch.setattr(Path, "lstat", refuse)
    assert not record.is_gone


@pytest.mark.parametrize(
    "change",
    [
        lambda file: file.write_text("{"),
        lambda file: file.write_text(json.dumps({"format": "tde-registered", "version": 1})),
        lambda file: file.write_text(file.read_text().replace('"version": 1', '"version": 2')),
        lambda file: file.chmod(0o664),
        lambda file: file.rename(file.with_suffix("")) and file.symlink_to(file.with_suffix("")),
    ],
    ids=["damaged", "incomplete", "later release", "writable by others", "a link"],
)
def test_what_says_nothing_certain_is_refused(record: Record, tmp_path: Path, change) -> None:
    record.write()
    (file,) = (tmp_path / "registered").iterdir()
    change(file)
    with pytest.raises(TdeError, match="says what was registered"):
        find_record(record.cluster)
    with pytest.raises(TdeError) as refused:
        all_records()
    assert "register that cluster again" in (refused.value.remedy or "")
