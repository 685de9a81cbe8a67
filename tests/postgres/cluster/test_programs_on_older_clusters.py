"""PostgreSQL's programs on clusters of a release before the key map, in every way to run them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tde.algorithms import Algorithm
from tde.keystore import KeyOwner
from tde.postgres import Cluster, install_bin_directory
from tde.postgres.cluster.keymap import (
    KEYMAP_FILE,
    KeySource,
    MapEntry,
    map_key,
    read_map,
    write_map,
)
from tde.postgres.server.os_user import run_as
from tests.convert.conversions import copy_tree
from tests.postgres.cluster_copies import make_directory
from tests.postgres.control_files import store_as_landed
from tests.postgres.older_releases import landed

SECRET = ("--passphrase-fd", "0")


@pytest.fixture
def older(any_binaries, encrypted_cluster_factory, os_user_tmp_path):
    """A stopped cluster of the first release, with a tablespace for each kind of its keys."""
    made = encrypted_cluster_factory(any_binaries)
    oids = {}
    for name in ("derived", "own"):
        location = make_directory(made, os_user_tmp_path / name)
        made.query(f"CREATE TABLESPACE {name} LOCATION '{location}'")
        oids[name] = made.query("SELECT oid FROM pg_tablespace WHERE spcname = %s", (name,))[0][0]
    made.cluster.stop()
    made.keystore.create_key(KeyOwner.tablespace(oids["own"]), Algorithm.AES128)
    entries = [
        MapEntry(oids["derived"], KeySource.DERIVED),
        MapEntry(oids["own"], KeySource.RECORD),
    ]
    write_map(made.data_directory, entries, made.keystore, made.cluster.os_user)
    made.start()
    for name in oids:
        made.query(f"CREATE TABLE {name} TABLESPACE {name} AS SELECT 1 AS x")
    made.cluster.stop()
    landed(made)
    store_as_landed(made.data_directory)
    return made


def found_map(made) -> dict[int, KeySource]:
    found = read_map(made.data_directory, made.keystore.uuid, map_key(made.keystore))
    return {oid: entry.source for oid, entry in found.entries.items()}


def has_map(made) -> bool:
    marker = made.cluster.marker
    assert marker is not None
    return marker.has_map or (made.data_directory / KEYMAP_FILE).exists()


def test_exec_writes_the_map_before_a_program_opens_tablespaces(older, tde_command):
    """It said "restore tde.keymap from a base backup", and no backup had one."""
    place = ["-D", older.data_directory, *SECRET]
    tde_command("pg", "exec", *place, "pg_checksums", "--version")
    tde_command("pg", "exec", *place, "pg_waldump", "-n", 1, oldest_segment(older.data_directory))
    assert not has_map(older)  # These see no tablespace, so they need no map.
    check = ["pg_checksums", "--check", "-D", older.data_directory]
    shown = tde_command("pg", "exec", *place, *check)
    assert "Bad checksums:  0" in shown.stdout
    assert older.cluster.marker.has_map
    assert sorted(found_map(older).values(), key=str) == [KeySource.DERIVED, KeySource.RECORD]
    older.start()
    assert older.query("SELECT count(*) FROM derived, own") == [(1,)]


def oldest_segment(data_directory: Path) -> Path:
    return min(p for p in (data_directory / "pg_wal").iterdir() if len(p.name) == 24)


def test_a_server_that_is_started_by_exec_has_the_map(older, tde_command, os_user_tmp_path):
    """Without it DROP TABLE ended in PANIC, and recovery in FATAL."""
    place = ["-D", older.data_directory, *SECRET]
    log = os_user_tmp_path / "log"
    options = f"-k {os_user_tmp_path} -c listen_addresses= -c fsync=off"
    start = ["pg_ctl", "start", "-w", "-D", older.data_directory, "-l", log, "-o", options]
    tde_command("pg", "exec", *place, *start)
    try:
        assert older.query("SELECT count(*) FROM derived, own") == [(1,)]
        older.query("DROP TABLE derived")
        location = make_directory(older, os_user_tmp_path / "new")
        older.query(f"CREATE TABLESPACE new LOCATION '{location}'")
    finally:
        older.cluster.stop()
    assert "PANIC" not in log.read_text()
    older.start()
    assert older.query("SELECT x FROM own") == [(1,)]


def test_exec_refuses_like_a_start_when_a_key_file_was_lost(older, tde_command):
    (own,) = [p for p in (older.keystore.path / "keys").iterdir() if is_lost_candidate(older, p)]
    own.rename(own.with_suffix(".lost"))
    check = ["pg_checksums", "--check", "-D", older.data_directory]
    place = ["-D", older.data_directory, *SECRET]
    refused = tde_command("pg", "exec", *place, *check, exit_code=5)
    assert "have a key of their own" in refused.stderr
    assert "Bring it from a backup of the keystore" in refused.stderr
    assert not has_map(older)


def is_lost_candidate(made, path: Path) -> bool:
    oids = [path.name for path in (made.data_directory / "pg_tblspc").iterdir()]
    return path.stem in oids


def test_beside_a_server_of_an_older_release_exec_writes_nothing(
    older, tde_command, os_user_tmp_path
):
    """That server makes tablespaces without noting them, so a map would be wrong at once."""
    older.start()
    landed(older)
    parameters = older.cluster.connection_parameters()
    connect = ["-h", parameters["host"], "-p", parameters["port"], "-U", parameters["user"]]
    place = ["-D", older.data_directory, *SECRET]
    target = os_user_tmp_path / "backup"
    backup = ["pg_basebackup", "-D", target, "-F", "tar", "-c", "fast", *connect]
    tde_command("pg", "exec", *place, *backup)
    check = ["pg_checksums", "--check", "-D", older.data_directory]
    refused = tde_command("pg", "exec", *place, *check, exit_code=1)
    assert "cluster must be shut down" in refused.stderr
    assert not has_map(older)
    older.cluster.stop()
    assert (target / "base.tar").exists()


def test_another_cluster_than_that_of_exec_is_named_with_what_to_do(
    older, tde_command, encrypted_cluster_factory, os_user_tmp_path
):
    """exec looks at the cluster of its own -D; the program may be told to work on a copy."""
    copy = os_user_tmp_path / "copy"
    copy_tree(older.data_directory, copy)
    older.start()
    older.cluster.stop()
    place = ["-D", older.data_directory, *SECRET]
    check = ["pg_checksums", "--check", "-D", copy]
    refused = tde_command("pg", "exec", *place, *check, exit_code=1)
    assert f"{copy}/{KEYMAP_FILE} is missing" in refused.stderr
    assert "was last started by an older release of tde" in refused.stderr
    assert 'start and stop it once with "tde pg start"' in refused.stderr
    # Where the marker says that there was a map, nothing but a backup of it helps.
    (copy / "tde.json").write_bytes((older.data_directory / "tde.json").read_bytes())
    refused = tde_command("pg", "exec", *place, *check, exit_code=1)
    assert (
        f"estore {KEYMAP_FILE} from the newest base backup of this server, made after"
        in refused.stderr
    )
    rewind = ["pg_rewind", "-n", "--target-pgdata", copy, "--source-pgdata", older.data_directory]
    refused = tde_command("pg", "exec", *place, *rewind, exit_code=1)
    assert f"{copy} has no key map" in refused.stderr
    assert "nothing was changed" in refused.stderr


@pytest.mark.parametrize(
    "command",
    [
        ("postgres", "-D", "DATA"),
        ("pg_ctl", "start", "-w", "-D", "DATA"),
        ("pg_checksums", "--check", "DATA"),
        ("pg_resetwal", "-n", "DATA"),
        ("pg_rewind", "-n", "--target-pgdata", "DATA", "--source-pgdata", "OTHER"),
    ],
    ids=lambda command: command[0],
)
def test_stand_ins_say_what_to_do_and_change_nothing(older, os_user_tmp_path, command):
    """They cannot look at pages, which tells whether a key file was lost."""
    older.keystore.enable_auto_open()
    cluster: Cluster = older.cluster
    made = install_bin_directory(
        os_user_tmp_path / "bin",
        cluster.binaries,
        cluster.os_user,
        keystore=older.keystore,
        algorithm=Algorithm.AES256,
    )
    before = {
        path: path.read_bytes()
        for path in older.data_directory.rglob("*")
        if path.is_file() and not path.is_symlink()
    }
    words = {"DATA": older.data_directory, "OTHER": os_user_tmp_path}
    program, *arguments = [words.get(word, word) for word in command]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PG")}
    run = run_as(cluster.os_user, [made.path / program, *arguments], environment=environment)
    assert run.returncode == 1
    assert f"the cluster in {older.data_directory} was last started by an older" in run.stderr
    assert "has no key map yet" in run.stderr
    assert "HINT: Run once: tde pg start -D" in run.stderr
    now = {path for path in older.data_directory.rglob("*") if path.is_file()}
    assert now == set(before)
    assert all(path.read_bytes() == content for path, content in before.items())
    older.start()
    older.cluster.stop()
    version = run_as(cluster.os_user, [made.path / "pg_checksums", "--check", older.data_directory])
    assert "Bad checksums:  0" in version.stdout


def test_the_key_of_wal_rotates_before_the_first_start(older, tde_command):
    """It said "restore tde.keymap from a base backup", and no backup had one."""
    shown = tde_command("wal", "rotate", "-D", older.data_directory, *SECRET)
    assert "The next start begins with it." in shown.stdout
    assert set(found_map(older).values()) >= {KeySource.DERIVED, KeySource.RECORD}
    older.start()
    for name in ("derived", "own"):
        assert older.query(f"SELECT x FROM {name}") == [(1,)]
