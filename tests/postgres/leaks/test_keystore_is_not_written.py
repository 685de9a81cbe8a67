"""A server writes and removes nothing in its keystore, whatever a setting, a statement or a link
in its data directory says."""

from __future__ import annotations

import os
from pathlib import Path

import psycopg2
import pytest

from tde.errors import TdeError
from tests.conftest import RunningCluster
from tests.postgres.cluster_copies import configure

REFUSED = "where the server writes nothing"


@pytest.fixture
def made(encrypted_cluster_factory, any_binaries) -> RunningCluster:
    return encrypted_cluster_factory(any_binaries)


def keys(made: RunningCluster) -> Path:
    return made.keystore.path / "keys"


def content(made: RunningCluster) -> dict[Path, bytes]:
    """Return the files of the keystore; tde itself notes there which lines were accepted."""
    files = (path for path in made.keystore.path.rglob("*") if path.is_file())
    return {path: path.read_bytes() for path in files if "accepted-lines" not in path.name}


def replace_by_link(made: RunningCluster, planted: str, target: Path) -> None:
    path = made.data_directory / planted
    path.rename(made.data_directory.parent / "away")
    path.symlink_to(target)


def log_of(made: RunningCluster) -> str:
    return made.cluster.default_log.read_text()


@pytest.fixture
def trusting(monkeypatch) -> None:
    """A start that does not look where the server's files will lie, as by other means than tde."""
    monkeypatch.setattr(
        "tde.postgres.cluster.starting.require_not_of_keystore", lambda *arguments: None
    )


@pytest.mark.parametrize("name", ["1663.key", "new.key"])
def test_a_second_pid_file_does_not_replace_a_key(made, trusting, name):
    before = content(made)
    made.cluster.stop()
    configure(made, [f"external_pid_file = '{keys(made) / name}'"])
    made.start()
    assert made.query("SELECT 1") == [(1,)]
    assert content(made) == before
    made.cluster.stop()
    assert content(made) == before
    assert REFUSED in log_of(made)


def test_a_log_does_not_replace_a_key(made, trusting):
    before = content(made)
    made.cluster.stop()
    link = made.data_directory.parent / "log"
    link.symlink_to(keys(made))
    configure(
        made,
        [
            "logging_collector = on",
            f"log_directory = '{link}'",
            "log_filename = '1663.key'",
            "log_truncate_on_rotation = on",
        ],
    )
    with pytest.raises(TdeError):
        made.start()
    assert content(made) == before
    assert REFUSED in log_of(made)


@pytest.mark.parametrize(
    ("planted", "target"),
    [
        ("pg_snapshots", "keys"),  # Which every recovery empties.
        ("postmaster.opts", "keys/1663.key"),
    ],
)
def test_a_planted_link_does_not_lead_a_start_to_the_keys(made, planted, target):
    before = content(made)
    made.cluster.stop("immediate")
    replace_by_link(made, planted, made.keystore.path / target)
    try:
        made.start()
        made.query("CHECKPOINT")
        said = log_of(made)
    except TdeError as error:
        # A start that cannot write its files may fail, if the keystore stays.
        said = f"{error}{log_of(made)}"
    assert content(made) == before
    # tde itself reads postmaster.opts before the server could write it, and follows no link.
    assert REFUSED in said or f"{planted} is not used" in said


def test_a_planted_database_does_not_take_the_keys_along(made):
    made.query("CREATE DATABASE other")
    (oid,) = made.query("SELECT oid FROM pg_database WHERE datname = 'other'")[0]
    before = content(made)
    made.cluster.stop()
    replace_by_link(made, f"base/{oid}", keys(made))
    made.start()
    made.query("DROP DATABASE other")
    assert content(made) == before
    assert REFUSED in log_of(made)


def test_a_planted_table_is_not_written_over_a_key(made):
    made.query("CREATE TABLE t (x integer)")
    (path,) = made.query("SELECT pg_relation_filepath('t')")[0]
    before = content(made)
    made.cluster.stop()
    replace_by_link(made, path, keys(made) / "1663.key")
    made.start()
    with pytest.raises(psycopg2.Error, match="Operation not permitted"):
        made.query("INSERT INTO t VALUES (1)")
    assert content(made) == before


def test_no_statement_writes_into_the_keystore(made):
    """A role that may write files of the server is no owner of its keys."""
    before = content(made)
    made.query("SELECT lo_create(4711)")
    odd = made.data_directory / ".." / made.keystore.path.name / "keys"
    for statement in (
        f"COPY (SELECT 1) TO '{keys(made)}/1663.key'",
        f"COPY (SELECT 1) TO '{odd}/new.key'",
        f"SELECT lo_export(4711, '{odd}/1663.key')",
        f"SELECT lo_export(4711, '{keys(made)}/16384.key')",
        f"CREATE TABLESPACE space LOCATION '{keys(made)}'",
    ):
        with pytest.raises(psycopg2.Error, match="Operation not permitted"):
            made.query(statement)
    assert content(made) == before
    assert sorted(path.name for path in keys(made).iterdir()) == sorted(
        path.name for path in before if path.parent == keys(made)
    )


def test_a_keystore_that_was_put_back_is_known_by_its_path(made):
    """Its directory has other numbers then, as after it was mounted again."""
    away = made.keystore.path.with_name("away")
    made.keystore.path.rename(away)
    made.keystore.path.mkdir(mode=0o700)
    os.chown(made.keystore.path, away.stat().st_uid, away.stat().st_gid)
    try:
        with pytest.raises(psycopg2.Error, match="Operation not permitted"):
            made.query(f"COPY (SELECT 1) TO '{made.keystore.path}/rows'")
        assert not list(made.keystore.path.iterdir())
    finally:
        made.keystore.path.rmdir()
        away.rename(made.keystore.path)
