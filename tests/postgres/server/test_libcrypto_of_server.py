"""A server encrypts with the fastest OpenSSL at hand, and starts whatever becomes of that file."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tde import _core
from tde.page import libcrypto
from tde.postgres.server.published import read_published_status
from tests.postgres.crashes.file_rewrites import kill_backend, wait_until_ready, wait_until_reaped

ROWS = "SELECT count(*), md5(string_agg(x, '' ORDER BY n)) FROM t"

gains = pytest.mark.skipif(
    not _core.libcrypto_would_gain(), reason="the system's OpenSSL is as fast as any here"
)


def used(made) -> str:
    """Return the file of the libcrypto that a server publishes."""
    return read_published_status(made.cluster.pid).libcrypto


def is_of_system(made) -> bool:
    return Path(used(made)).name.startswith("libcrypto.so.")


@gains
def test_both_libraries_read_what_the_other_has_written(
    encrypted_cluster_factory, binaries, monkeypatch
):
    made = encrypted_cluster_factory(binaries)
    assert not is_of_system(made)
    made.query(
        "CREATE TABLE t AS SELECT n, repeat('x', n % 900) AS x FROM generate_series(1, 5000) n"
    )
    before = made.query(ROWS)
    made.cluster.stop()
    monkeypatch.setenv(libcrypto.VARIABLE, "system")
    made.start()
    assert is_of_system(made)
    assert made.query(ROWS) == before
    made.query("UPDATE t SET x = x || 'y'")
    before = made.query(ROWS)
    made.cluster.stop()
    monkeypatch.delenv(libcrypto.VARIABLE)
    made.start()
    assert made.query(ROWS) == before


@gains
def test_a_running_server_does_not_need_the_file(
    encrypted_cluster_factory, any_binaries, os_user_tmp_path, monkeypatch
):
    made = encrypted_cluster_factory(any_binaries, start=False)
    found = libcrypto.find_libcrypto()
    assert found is not None
    copy = os_user_tmp_path / "libcrypto.so.3"
    copy.write_bytes(found.read_bytes())
    copy.chmod(0o644)
    monkeypatch.setenv(libcrypto.VARIABLE, str(copy))
    made.start({"restart_after_crash": "on"})
    assert used(made) == str(copy)
    copy.unlink()
    made.query("CREATE TABLE t AS SELECT n, 'x' AS x FROM generate_series(1, 5000) n")
    before = made.query(ROWS)
    # All processes are new ones after that, but the postmaster.
    wait_until_reaped(kill_backend(made.cluster.pid, random.Random(1)))
    wait_until_ready(made)
    assert made.query(ROWS) == before
    made.cluster.stop()
    position = made.cluster.default_log.stat().st_size
    made.start()
    assert made.query(ROWS) == before
    with made.cluster.default_log.open() as log:
        log.seek(position)
        said = [line for line in log if line.startswith("tde: ")]
    assert len(said) == 1
    assert f"WARNING: the library {copy} cannot encrypt pages" in said[0]
    assert is_of_system(made)
