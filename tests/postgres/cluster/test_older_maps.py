"""Older states of tde.keymap and tde.json, put back by who may write to the volume or by a restore
of single files: no tablespace gets another key."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from tde.algorithms import Algorithm
from tde.errors import ClusterKeystoreError, KeyMapError
from tde.postgres import Scope, create_tablespace, install_bin_directory
from tde.postgres.cluster.keymap import KEYMAP_FILE
from tde.postgres.server.control import read_control_data
from tde.postgres.server.os_user import run_as
from tests.conftest import RunningCluster
from tests.postgres.canaries import CANARY, files_with
from tests.postgres.cluster_copies import make_directory

HEADER_BYTES = 64


def plant_backup(made: RunningCluster, oid: int, location: str) -> None:
    """Make a stopped data directory look like a base backup that has a tablespace elsewhere."""
    user = made.cluster.os_user
    control = read_control_data(made.data_directory, made.cluster.binaries, user)
    position = f"{control.checkpoint >> 32:X}/{control.checkpoint & 0xFFFF_FFFF:X}"
    (made.data_directory / "pg_tblspc" / str(oid)).unlink()
    texts = {
        "tablespace_map": f"{oid} {location}\n",
        "backup_label": f"START WAL LOCATION: {position} (file {control.redo_segment})\n"
        f"CHECKPOINT LOCATION: {position}\nBACKUP METHOD: none\n",
    }
    for name, text in texts.items():
        path = made.data_directory / name
        path.write_text(text)
        if user is not None:
            os.chown(path, user.uid, user.gid)


def start_alone(made: RunningCluster, directory: Path) -> tuple[int, str]:
    """Start the server without tde's own checks, as init scripts do; return code and log."""
    made.keystore.enable_auto_open()
    user = made.cluster.os_user
    programs = install_bin_directory(
        directory / "bin", made.cluster.binaries, user, keystore=made.keystore
    )
    log = directory / "start.log"
    options = f"-k {directory} -c listen_addresses= -c fsync=off"
    program = str(programs.path / "pg_ctl")
    where = ["-w", "-D", str(made.data_directory), "-l", str(log), "-o", options]
    return run_as(user, [program, "start", *where]).returncode, log.read_text()


def test_a_planted_backup_label_does_not_choose_the_key_of_a_tablespace(
    any_binaries, encrypted_cluster_factory, os_user_tmp_path
):
    """The server would sign that an encrypted tablespace is in plain text, and write it so."""
    made = encrypted_cluster_factory(any_binaries, scope=Scope.TABLESPACES)
    places = {}
    for name, algorithm in (("open", None), ("secret", Algorithm.AES256)):
        place = os_user_tmp_path / name
        places[name] = create_tablespace(made.cluster, made.keystore, name, place, algorithm)
    made.query(f"CREATE TABLE t TABLESPACE secret AS SELECT '{CANARY.decode()}' AS x")
    made.cluster.stop()
    path = made.data_directory / KEYMAP_FILE
    whole = path.read_bytes()
    # The map of before "secret" was made is as authentic as that of today.
    older = whole[: HEADER_BYTES * 2]
    path.write_bytes(older)
    with pytest.raises(KeyMapError, match="does not say what key tablespace"):
        made.start()
    key_id = Path(places["open"].location).name
    lure = make_directory(made, os_user_tmp_path / "lure")
    lure = make_directory(made, lure / key_id)
    plant_backup(made, places["secret"].oid, str(lure))
    with pytest.raises(KeyMapError, match="does not say what key tablespace"):
        made.start()
    code, log = start_alone(made, os_user_tmp_path)
    assert code == 1
    assert "does not say what key tablespace" in log
    assert path.read_bytes() == older
    assert files_with(CANARY, lure, Path(places["secret"].location)) == []

    # With its own map it is what it was, wherever tablespace_map leads.
    path.write_bytes(whole)
    (made.data_directory / "tablespace_map").write_text(
        f"{places['secret'].oid} {places['secret'].location}\n"
    )
    made.start()
    assert made.query("SELECT x FROM t") == [(CANARY.decode(),)]
    assert path.read_bytes() == whole


@pytest.fixture
def with_named(any_binaries, encrypted_cluster_factory, os_user_tmp_path) -> RunningCluster:
    """A stopped cluster with a tablespace of each kind, and the tde.json of an earlier release."""
    made = encrypted_cluster_factory(any_binaries)
    place = os_user_tmp_path / "named"
    create_tablespace(made.cluster, made.keystore, "named", place, Algorithm.AES128)
    place = make_directory(made, os_user_tmp_path / "derived")
    made.query(f"CREATE TABLESPACE derived LOCATION '{place}'")
    for name in ("named", "derived"):
        made.query(f"CREATE TABLE {name} TABLESPACE {name} AS SELECT 1 AS x")
    made.cluster.stop()
    marker = replace(made.cluster.marker, has_map=False)
    marker.write(made.data_directory, made.cluster.os_user)
    return made


def test_an_older_marker_does_not_replace_the_map(with_named, caplog):
    path = with_named.data_directory / KEYMAP_FILE
    before = path.read_bytes()
    with_named.start()
    assert path.read_bytes() == before
    assert with_named.cluster.marker.has_map
    assert "the map is authentic and was kept" in caplog.text
    for name in ("named", "derived"):
        assert with_named.query(f"SELECT x FROM {name}") == [(1,)]


def test_an_older_marker_does_not_replace_a_damaged_map(with_named):
    path = with_named.data_directory / KEYMAP_FILE
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(KeyMapError, match="it is damaged or was altered"):
        with_named.start()
    assert path.read_bytes() != whole
    path.write_bytes(whole)
    with_named.start()
    assert with_named.query("SELECT x FROM named") == [(1,)]


def test_an_older_marker_without_the_map_names_what_is_missing(with_named):
    """Not a key file that never existed."""
    path = with_named.data_directory / KEYMAP_FILE
    whole = path.read_bytes()
    path.unlink()
    with pytest.raises(ClusterKeystoreError, match="names its key") as caught:
        with_named.start()
    assert caught.value.remedy.startswith("Restore tde.keymap and tde.json")
    assert not path.exists()
    path.write_bytes(whole)
    if with_named.cluster.os_user is not None:
        os.chown(path, with_named.cluster.os_user.uid, with_named.cluster.os_user.gid)
    with_named.start()
    assert with_named.query("SELECT x FROM named") == [(1,)]
