"""The server's log holds rows, so it lies where base backups do not look."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import psycopg2
import pytest
from support import CANARY, base_backup, files_with

from tde.postgres import Cluster
from tde.postgres.server.server_log import default_log, prepare_log


def test_rows_in_the_log_are_not_backed_up(
    any_binaries, encrypted_cluster_factory, os_user_tmp_path
):
    made = encrypted_cluster_factory(any_binaries)
    with pytest.raises(psycopg2.Error):
        made.query(f"SELECT '{CANARY.decode()}'::int")
    log = made.cluster.default_log
    assert log == made.data_directory.with_name(f"{made.data_directory.name}.log")
    assert CANARY in log.read_bytes()
    assert stat.S_IMODE(log.stat().st_mode) == 0o600
    assert log.stat().st_uid == made.data_directory.stat().st_uid
    base_backup(made, os_user_tmp_path / "backup")
    assert files_with(CANARY, made.data_directory, os_user_tmp_path / "backup") == []


def test_log_in_the_data_directory_is_the_last_resort(os_user, os_user_tmp_path: Path):
    parent = os_user_tmp_path / "parent"
    data = parent / "data"
    data.mkdir(parents=True)
    (parent / "data.log").symlink_to("elsewhere")  # As somebody else could in /tmp.
    assert default_log(data, os_user) == data / "server.log"
    assert Cluster(data, os_user=os_user).default_log == data / "server.log"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes files for others")
def test_root_makes_the_log_where_the_server_may_not_write(os_user, os_user_tmp_path: Path):
    os.chown(os_user_tmp_path, 0, 0)
    log = default_log(os_user_tmp_path / "data", os_user)
    assert log == os_user_tmp_path / "data.log"
    prepare_log(log, os_user)
    assert log.stat().st_uid == os_user.uid
    assert stat.S_IMODE(log.stat().st_mode) == 0o600
    prepare_log(log, os_user)
    assert default_log(os_user_tmp_path / "data", os_user) == log
