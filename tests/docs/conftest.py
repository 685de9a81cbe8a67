"""Fixtures for tests that type the commands of the pages."""

from __future__ import annotations

import os

import pytest

from tde.postgres import Cluster
from tests.docs.pages import commands
from tests.docs.reader import MAIN, SETTINGS, Reader
from tests.postgres.cluster_copies import configure


@pytest.fixture
def reader(encrypted_cluster_factory, os_user_tmp_path, os_user):
    """A reader with the directories of the pages, all empty and the server's user's."""
    for name in ("pg", "tde", "backup", "archive"):
        directory = os_user_tmp_path / name
        directory.mkdir()
        if os_user is not None:
            os.chown(directory, os_user.uid, os_user.gid)
    for name in ("main", "standby", "restored", "unpacked"):
        made = Cluster(os_user_tmp_path / "pg" / name, os_user=os_user)
        encrypted_cluster_factory.track(made)
    return Reader(os_user_tmp_path, os_user)


@pytest.fixture
def main(reader, encrypted_cluster_factory, any_binaries):
    """An encrypted cluster that archives WAL, with rows; its server runs."""
    made = encrypted_cluster_factory(any_binaries, name="pg/main", start=False)
    (archive_command,) = commands("backup-and-restore.md", "Archive WAL")[:1]
    settings = [*SETTINGS, "port = 5432", "wal_keep_size = 1GB", "archive_mode = on"]
    configure(made, [reader.here(line) for line in (*settings, archive_command)])
    reader.type(f"tde pg start -D {MAIN}")
    reader.fill(MAIN)
    return made
