"""Base backups whose tablespaces are restored to other places: the key map says their keys."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from tde.algorithms import Algorithm
from tde.errors import ClusterKeystoreError, KeyMapError
from tde.keystore import KeyOwner
from tde.postgres import create_tablespace, install_bin_directory
from tde.postgres.cluster.keymap import (
    KEYMAP_FILE,
    KeySource,
    MapEntry,
    map_key,
    read_map,
    write_map,
)
from tde.postgres.server.os_user import OsUser, run_as
from tests.postgres.canaries import CANARY, files_with, settle
from tests.postgres.cluster_copies import base_backup, make_directory, open_copy
from tests.postgres.crashes.file_rewrites import kill_server

ROWS = 1000


def fill(made, *spaces: str) -> None:
    for space in spaces:
        made.query(
            f"CREATE TABLE {space} TABLESPACE {space} AS "
            f"SELECT g, '{CANARY.decode()}' AS x FROM generate_series(1, {ROWS}) g"
        )


def make_in_sql(made, name: str, directory: Path) -> int:
    made.query(f"CREATE TABLESPACE {name} LOCATION '{make_directory(made, directory)}'")
    return made.query("SELECT oid FROM pg_tablespace WHERE spcname = %s", (name,))[0][0]


def entries_of(made) -> Mapping[int, MapEntry]:
    return read_map(made.data_directory, made.keystore.uuid, map_key(made.keystore)).entries


def unpack(backup: Path, directory: Path, os_user: OsUser | None) -> Path:
    """Restore a tar backup beside the running server, as the manual of PostgreSQL says.

    Each tablespace gets another place, whose name has nothing to do with its key.
    """
    directory.mkdir(mode=0o700)
    subprocess.run(["tar", "-xf", str(backup / "base.tar"), "-C", str(directory)], check=True)
    listed = directory / "tablespace_map"
    lines = []
    for line in listed.read_text().splitlines():
        oid = line.split()[0]
        place = directory.with_name(f"{directory.name}-{oid} \\ place")
        place.mkdir(mode=0o700)
        subprocess.run(["tar", "-xf", str(backup / f"{oid}.tar"), "-C", str(place)], check=True)
        lines.append(f"{oid} {place}\n".replace("\\", "\\\\"))
    listed.write_text("".join(lines))
    if os_user is not None:
        for path in directory.parent.glob(f"{directory.name}*"):
            for file in (path, *path.rglob("*")):
                os.chown(file, os_user.uid, os_user.gid)
    return directory


@pytest.fixture
def original(binaries_older_slow, encrypted_cluster_factory, os_user_tmp_path):
    """A cluster with a tablespace of each kind, and a tar backup of it."""
    made = encrypted_cluster_factory(binaries_older_slow)
    place = os_user_tmp_path / "named"
    create_tablespace(made.cluster, made.keystore, "named", place, Algorithm.AES128)
    make_in_sql(made, "derived", os_user_tmp_path / "derived")
    fill(made, "named", "derived")
    base_backup(made, os_user_tmp_path / "tar", "--format=tar", "--wal-method=fetch")
    return made


def require_rows(made, *spaces: str, rows: int = ROWS) -> None:
    for space in spaces:
        assert made.query(f"SELECT count(*), max(g) FROM {space}") == [(rows, ROWS)], space


def test_a_tar_backup_opens_with_the_keys_of_its_map(
    original, encrypted_cluster_factory, os_user_tmp_path, os_user
):
    directory = unpack(os_user_tmp_path / "tar", os_user_tmp_path / "copy", os_user)
    copy = open_copy(encrypted_cluster_factory, original, directory, original.keystore)
    before = entries_of(copy)
    assert [entry.source for entry in before.values()] == [KeySource.NAMED, KeySource.DERIVED]
    copy.start()
    require_rows(copy, "named", "derived")
    # What is written from now on has the same keys, also after a crash.
    for space in ("named", "derived"):
        copy.query(f"INSERT INTO {space} SELECT 1, '{CANARY.decode()}'")
    kill_server(copy.cluster.pid)
    copy.start()
    require_rows(copy, "named", "derived", rows=ROWS + 1)
    settle(copy)
    assert entries_of(copy) == before
    places = [p for p in os_user_tmp_path.iterdir() if p.name.startswith("copy")]
    assert len(places) == 4  # With the server's log.
    assert files_with(CANARY, *places) == []
    require_rows(original, "named", "derived")


def test_a_plain_backup_with_other_places_opens_with_the_keys_of_its_map(
    original, encrypted_cluster_factory, os_user_tmp_path
):
    backup = os_user_tmp_path / "copy"
    locations = original.query(
        "SELECT spcname, pg_tablespace_location(oid) FROM pg_tablespace WHERE oid > 16000"
    )
    mapping = [f"--tablespace-mapping={old}={backup}-{name}" for name, old in locations]
    base_backup(original, backup, "--wal-method=fetch", *mapping)
    copy = open_copy(encrypted_cluster_factory, original, backup, original.keystore)
    copy.start()
    require_rows(copy, "named", "derived")
    assert entries_of(copy) == entries_of(original)


def test_a_map_that_is_older_than_the_backup_is_refused(
    original, encrypted_cluster_factory, os_user_tmp_path, os_user
):
    """Otherwise a tablespace would be read and written with a key that is not its own."""
    directory = unpack(os_user_tmp_path / "tar", os_user_tmp_path / "copy", os_user)
    copy = open_copy(encrypted_cluster_factory, original, directory, original.keystore)
    path = directory / KEYMAP_FILE
    whole = path.read_bytes()
    path.write_bytes(whole[:64])
    with pytest.raises(KeyMapError, match="does not say what key tablespace") as caught:
        copy.start()
    assert "restore tde.keymap from the newest base backup" in caught.value.remedy

    # The server by itself, as init scripts start it.
    original.keystore.enable_auto_open()
    programs = install_bin_directory(
        os_user_tmp_path / "bin", copy.cluster.binaries, os_user, keystore=original.keystore
    )
    log = os_user_tmp_path / "start.log"
    options = f"-k {os_user_tmp_path} -c listen_addresses="
    start = [programs.path / "pg_ctl", "start", "-w", "-D", directory, "-l", log, "-o", options]
    assert run_as(os_user, start).returncode == 1
    assert "does not say what key tablespace" in log.read_text()
    assert "restore tde.keymap from the newest base backup" in log.read_text()
    assert path.read_bytes() == whole[:64]
    assert list((directory / "pg_tblspc").iterdir()) == []

    path.write_bytes(whole)
    copy.start()
    require_rows(copy, "named", "derived")


def test_a_backup_that_is_taken_while_tablespaces_are_made_opens(
    binaries_older_slow, encrypted_cluster_factory, os_user_tmp_path, os_user
):
    """Whatever its tablespace_map lists is in its map, which is copied later; WAL has the rest."""
    made = encrypted_cluster_factory(binaries_older_slow)
    spaces = [f"s{number}" for number in range(200)]
    stop, some = threading.Event(), threading.Event()

    def create() -> None:
        for number, name in enumerate(spaces):
            place = os_user_tmp_path / name
            if number % 2:
                make_in_sql(made, name, place)
            else:
                create_tablespace(made.cluster, made.keystore, name, place, Algorithm.AES256)
            made.query(f"CREATE TABLE {name} TABLESPACE {name} AS SELECT {number} AS g")
            if number > 5:
                some.set()
                if stop.wait(0.1):  # However fast the machine is, some are made during the backup.
                    return

    thread = threading.Thread(target=create)
    thread.start()
    try:
        assert some.wait(60)
        slowly = ["--format=tar", "--wal-method=fetch", "--max-rate=12M"]
        base_backup(made, os_user_tmp_path / "tar", *slowly)
    finally:
        stop.set()
        thread.join()
    directory = unpack(os_user_tmp_path / "tar", os_user_tmp_path / "copy", os_user)
    listed = len((directory / "tablespace_map").read_text().splitlines())
    # Replay makes the tablespaces of after the backup's begin again, where they were.
    made.cluster.stop()
    copy = open_copy(encrypted_cluster_factory, made, directory, made.keystore)
    copy.start()
    tables = copy.query("SELECT tablename FROM pg_tables WHERE tablename ~ '^s[0-9]+$'")
    assert 0 < listed < len(tables), "no tablespace was made during the backup"
    for (name,) in tables:
        assert copy.query(f"SELECT g FROM {name}") == [(int(name[1:]),)]


def test_a_tar_backup_of_a_release_before_the_map_gets_one(
    any_binaries, encrypted_cluster_factory, os_user_tmp_path, os_user
):
    made = encrypted_cluster_factory(any_binaries)
    oids = [make_in_sql(made, name, os_user_tmp_path / name) for name in ("own", "derived")]
    made.cluster.stop()
    (file,) = made.keystore.create_key(KeyOwner.tablespace(oids[0]), Algorithm.AES128)
    entries = [MapEntry(oids[0], KeySource.RECORD), MapEntry(oids[1], KeySource.DERIVED)]
    write_map(made.data_directory, entries, made.keystore, os_user)
    made.start()
    fill(made, "own", "derived")
    base_backup(made, os_user_tmp_path / "tar", "--format=tar", "--wal-method=fetch")
    directory = unpack(os_user_tmp_path / "tar", os_user_tmp_path / "copy", os_user)
    (directory / KEYMAP_FILE).unlink()
    copy = open_copy(encrypted_cluster_factory, made, directory, made.keystore)
    replace(copy.cluster.marker, has_map=False).write(directory, os_user)

    file.rename(file.with_suffix(".lost"))
    with pytest.raises(ClusterKeystoreError, match="a key of their own"):
        copy.start()
    file.with_suffix(".lost").rename(file)
    copy.start()
    assert entries_of(copy) == {entry.oid: entry for entry in entries}
    require_rows(copy, "own", "derived")
