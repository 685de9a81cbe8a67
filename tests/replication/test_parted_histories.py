"""Two servers that went their own ways since a failover, each with a key for the same tablespace.

pg_rewind and incremental backups copy blocks as they are, from one directory to another. A block
of one history is noise in the other where their key maps differ.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from tde.algorithms import Algorithm
from tde.errors import KeyMapError
from tde.postgres import create_tablespace, install_bin_directory
from tde.postgres.cluster.keymap import KEYMAP_FILE, map_key, read_map
from tde.postgres.server.os_user import run_as
from tests.postgres.cluster_copies import base_backup, open_copy
from tests.postgres.crashes.file_rewrites import kill_server
from tests.replication.test_standbys_and_recovery import wait_until

OPTIONS = {"wal_keep_size": "256MB", "summarize_wal": "on"}


def options(binaries) -> dict[str, str]:
    return {k: v for k, v in OPTIONS.items() if binaries.major >= 17 or k != "summarize_wal"}


def part(factory, primary, directory: Path):
    """Promote a copy of a primary that was killed, and starts again as if nothing had happened.

    Both have replayed the same WAL, so both give the same OID next.
    """
    base_backup(primary, directory, "--wal-method=stream")
    kill_server(primary.cluster.pid)
    other = open_copy(factory, primary, directory, primary.keystore)
    (directory / "standby.signal").touch()
    settings = options(primary.cluster.binaries)
    other.start(settings)
    other.query("SELECT pg_promote()")
    wait_until(other, "SELECT pg_is_in_recovery()", False)
    primary.start(settings)
    return other


def make_space(made, directory: Path) -> int:
    """Make a tablespace with a key of its own, and a table in it; returns its OID."""
    space = create_tablespace(made.cluster, made.keystore, "space", directory, Algorithm.AES256)
    made.query("CREATE TABLE t TABLESPACE space AS SELECT generate_series(1, 1000) AS g")
    made.query("CHECKPOINT")
    return space.oid


def files_of(directory: Path) -> Mapping[str, tuple[int, int]]:
    """Return what would show that a file was written to."""
    return {
        str(path.relative_to(directory)): (path.lstat().st_size, path.lstat().st_mtime_ns)
        for path in directory.rglob("*")
        if not path.is_dir()
    }


@pytest.fixture
def parted(binaries, encrypted_cluster_factory, os_user_tmp_path):
    """An old primary and a new one, whose tablespaces have the same OID and different keys."""
    old = encrypted_cluster_factory(binaries, options=options(binaries))
    old.query("CREATE TABLE common AS SELECT 1 AS x")
    new = part(encrypted_cluster_factory, old, os_user_tmp_path / "new")
    oids = [make_space(made, os_user_tmp_path / name) for made, name in ((old, "a"), (new, "b"))]
    assert oids[0] == oids[1]
    maps = [
        read_map(made.data_directory, made.keystore.uuid, map_key(made.keystore)).entries
        for made in (old, new)
    ]
    assert maps[0].keys() == maps[1].keys()
    assert maps[0] != maps[1]
    return old, new, oids[0]


def test_pg_rewind_is_refused_with_a_remedy(parted, os_user_tmp_path, os_user):
    old, new, oid = parted
    old.keystore.enable_auto_open()
    programs = install_bin_directory(
        os_user_tmp_path / "bin", old.cluster.binaries, os_user, keystore=old.keystore
    )
    old.cluster.stop()
    before = files_of(old.data_directory)

    def rewind(*source: str) -> None:
        command = [programs.path / "pg_rewind", "-D", old.data_directory, "--no-sync", *source]
        run = run_as(os_user, command, timeout=120)
        assert run.returncode == 1
        assert f"tablespace {oid} has one key in {old.data_directory}" in run.stderr
        assert "make the standby again from a base backup" in run.stderr
        assert f"refused to rewind {old.data_directory}: nothing was changed" in run.stderr
        assert files_of(old.data_directory) == before

    parameters = new.cluster.connection_parameters()
    text = " ".join(f"{k}={parameters[k]}" for k in ("host", "port", "user", "dbname"))
    rewind(f"--source-server={text}")
    new.cluster.stop()
    rewind(f"--source-pgdata={new.data_directory}")
    for made in (old, new):
        made.start()
        assert made.query("SELECT count(*) FROM t") == [(1000,)]


def test_only_pages_tell_the_map_of_another_history_from_the_right_one(parted):
    """docs/threat-model.md: it is authentic and knows all tablespaces."""
    old, new, oid = parted
    old.cluster.stop()
    path = old.data_directory / KEYMAP_FILE
    right = path.read_bytes()
    path.write_bytes((new.data_directory / KEYMAP_FILE).read_bytes())
    with pytest.raises(KeyMapError, match=f"files of tablespace {oid} have another key"):
        old.start()
    # After a crash pages may be torn, but one that fits another key is a proof.
    path.write_bytes(right)
    old.start()
    kill_server(old.cluster.pid)
    path.write_bytes((new.data_directory / KEYMAP_FILE).read_bytes())
    with pytest.raises(KeyMapError, match=f"files of tablespace {oid} have another key"):
        old.start()
    path.write_bytes(right)
    old.start()
    assert old.query("SELECT count(*) FROM t") == [(1000,)]
