"""A cluster with archive and backup, and a copy of it for each test."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tde import Algorithm
from tde.postgres import Cluster, create_tablespace
from tests.audit.prepared import TEXT, Prepared, link_tree
from tests.postgres.canaries import settle
from tests.postgres.cluster_copies import base_backup, make_directory


@pytest.fixture(scope="module")
def original(module_cluster_factory, any_binaries, module_os_user_tmp_path) -> Prepared:
    directory = module_os_user_tmp_path
    # Small segments, so that copies and archives are small; the size is read from pg_control.
    made = module_cluster_factory(any_binaries, start=False, initdb_args=["--wal-segsize=1"])
    archive = make_directory(made, directory / "archive")
    made.start({"archive_mode": "on", "archive_command": f"cp %p {archive}/%f"})
    space = create_tablespace(
        made.cluster, made.keystore, "space", directory / "space", Algorithm.AES128
    )
    rows = f"SELECT g AS id, '{TEXT}' || g AS x FROM generate_series(1, 20000) g"
    for table in ("heap", "other", "moved TABLESPACE space"):
        made.query(f"CREATE TABLE {table} AS {rows}")
    settle(made)
    paths = [
        made.query(f"SELECT pg_relation_filepath('{table}')")[0][0]
        for table in ("heap", "other", "moved")
    ]
    backup = directory / "backup"
    mapping = f"--tablespace-mapping={space.location}={directory}/backup-space"
    base_backup(made, backup, mapping)
    made.cluster.stop()
    return Prepared(
        made.cluster, made.keystore, archive, backup, paths[0], paths[1], space.oid, paths[2]
    )


@pytest.fixture
def copy(original, os_user_tmp_path) -> Prepared:
    """A copy of everything, to be changed by one test, but only with :func:`store`."""
    made = {}
    for name in ("archive", "backup"):
        made[name] = link_tree(getattr(original, name), os_user_tmp_path / name)
    data = link_tree(original.root, os_user_tmp_path / "data")
    link = data / "pg_tblspc" / str(original.tablespace)
    space = link_tree(link.resolve(), os_user_tmp_path / "space")
    link.unlink()
    link.symlink_to(space)
    cluster = Cluster(data, original.cluster.binaries, os_user=original.cluster.os_user)
    return replace(original, cluster=cluster, **made)
