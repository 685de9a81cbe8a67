"""A disk that fills up: the error is PostgreSQL's own and nothing committed is lost."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psycopg2
import pytest

from tde.errors import TdeError
from tde.postgres import Cluster, run_program
from tests.postgres.canaries import CANARY, files_with
from tests.small_disk import small_disk

SIZE_MB = 160


@pytest.fixture(name="small_disk")
def small_disk_of_test(os_user, os_user_tmp_path: Path) -> Iterator[Path]:
    with small_disk(os_user_tmp_path / "small", SIZE_MB, os_user) as directory:
        yield directory


def fill_disk(cluster) -> tuple[int, str]:
    """Insert batches until one fails; returns how many were committed, and the error."""
    statement = "INSERT INTO t SELECT %s, repeat(%s, 20) FROM generate_series(1, 2000)"
    committed = 0
    while True:
        try:
            cluster.query(statement, (committed, CANARY.decode()))
        except psycopg2.Error as error:
            return committed, str(error)
        committed += 1


def test_rows_that_do_not_fit_are_postgresqls_own_error(
    any_binaries, encrypted_cluster_factory, small_disk
):
    """The data directory, WAL included, is on the full disk, so the server may even stop."""
    encrypted_cluster_factory.directory = small_disk
    options = {"max_wal_size": "48MB", "min_wal_size": "32MB"}
    cluster = encrypted_cluster_factory(
        any_binaries, options=options, initdb_args=["--wal-segsize=1"]
    )
    ballast = small_disk / "ballast"
    ballast.write_bytes(b"\0" * (60 << 20))
    cluster.query("CREATE TABLE t (n int, x text)")
    committed, error = fill_disk(cluster)
    log = cluster.cluster.default_log.read_text(errors="replace")
    assert "No space left on device" in error + log
    assert committed > 0

    ballast.unlink()
    if cluster.cluster.pid is not None:
        cluster.cluster.stop("immediate")
    cluster.start(options)
    rows = cluster.query("SELECT n, count(*) FROM t GROUP BY n ORDER BY n")
    assert rows[:committed] == [(n, 2000) for n in range(committed)]
    cluster.cluster.stop()
    run = run_program(
        cluster.cluster.binaries,
        "pg_checksums",
        ["--check", "-D", str(cluster.data_directory)],
        keystore=cluster.keystore,
        os_user=cluster.cluster.os_user,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    # The server's log, which quotes the statement that failed, is elsewhere (docs/coverage.md).
    assert files_with(CANARY, cluster.data_directory) == []


def test_a_cluster_that_does_not_fit_leaves_no_keys(
    any_binaries, encrypted_cluster_factory, small_disk
):
    """initdb fails with its own words and leaves neither half a cluster nor keys."""
    (small_disk / "ballast").write_bytes(b"\0" * ((SIZE_MB - 8) << 20))
    encrypted_cluster_factory.directory = small_disk
    keystore = encrypted_cluster_factory.keystore()
    cluster = Cluster(small_disk / "data", any_binaries)
    with pytest.raises(TdeError, match="No space left on device"):
        cluster.init(keystore=keystore)
    assert not (small_disk / "data" / "PG_VERSION").exists()
    assert list((keystore.path / "keys").glob("*.key")) == []
