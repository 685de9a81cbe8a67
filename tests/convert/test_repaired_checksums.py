"""What PostgreSQL's own pg_checksums does to an encrypted cluster is undone, bit by bit."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tde import FileIdentity
from tde.errors import ConversionError, DamagedPagesError
from tde.postgres import repair_stock_checksums, run_program
from tde.postgres.server.os_user import run_as
from tests.convert.conversions import make_user_tablespace
from tests.postgres.control_files import store_as_landed


def relations(directory: Path) -> dict[Path, bytes]:
    return {
        path: path.read_bytes()
        for part in ("base", "global")
        for path in (directory / part).rglob("*")
        if path.is_file() and path.name[0].isdecimal()
    }


def stock_checksums(made, *actions: str) -> None:
    """Do what destroys a cluster whose state is in the open, as of an earlier release."""
    store_as_landed(made.data_directory)
    for action in actions:
        program = made.cluster.binaries.program("pg_checksums")
        run = run_as(made.cluster.os_user, [program, action, "-D", made.data_directory])
        assert run.returncode == 0, run.stderr


@pytest.fixture
def stopped(binaries_older_slow, encrypted_cluster_factory, os_user_tmp_path):
    made = encrypted_cluster_factory(binaries_older_slow)
    make_user_tablespace(made, os_user_tmp_path / "outside")
    made.query(
        "CREATE TABLE t AS SELECT i AS n, md5(i::text) AS x FROM generate_series(1, 20000) i"
    )
    made.query("CREATE INDEX ON t (x)")
    made.query("CREATE UNLOGGED TABLE u AS SELECT 1 AS n")
    made.query("VACUUM")
    made.cluster.stop()
    return made


def test_every_bit_comes_back_and_checksums_are_on(stopped):
    before = relations(stopped.data_directory)
    stock_checksums(stopped, "--disable", "--enable")
    assert relations(stopped.data_directory) != before
    summary = repair_stock_checksums(stopped.cluster, stopped.keystore)
    assert summary.damaged == 0
    assert 0 < summary.repaired <= summary.pages
    assert not summary.checksums_off
    assert relations(stopped.data_directory) == before
    again = repair_stock_checksums(stopped.cluster, stopped.keystore)
    assert again.repaired == 0
    assert again.pages == summary.pages
    stopped.start()
    assert stopped.query("SELECT count(*), count(DISTINCT x) FROM t") == [(20000, 20000)]
    assert stopped.query("SELECT count(*) FROM o") == [(1,)]
    assert stopped.query("SHOW data_checksums") == [("on",)]


def test_checksums_that_were_off_are_off_again(stopped):
    run = run_program(
        stopped.cluster.binaries,
        "pg_checksums",
        ["--disable", "-D", str(stopped.data_directory)],
        keystore=stopped.keystore,
        os_user=stopped.cluster.os_user,
    )
    assert run.returncode == 0
    stopped.start()
    stopped.query("UPDATE t SET n = n + 1")  # These pages get no checksum.
    stopped.cluster.stop()
    before = relations(stopped.data_directory)
    stock_checksums(stopped, "--enable")
    assert repair_stock_checksums(stopped.cluster, stopped.keystore).checksums_off
    assert relations(stopped.data_directory) == before
    stopped.start()
    assert stopped.query("SELECT count(*), count(DISTINCT x) FROM t") == [(20000, 20000)]


def test_an_interrupted_repair_is_finished_by_the_next(stopped, monkeypatch):
    before = relations(stopped.data_directory)
    stock_checksums(stopped, "--disable", "--enable")
    written = []
    pwrite = os.pwrite

    def interrupted(descriptor: int, data: bytes, offset: int) -> int:
        if len(written) == 100:
            raise KeyboardInterrupt
        written.append(offset)
        return pwrite(descriptor, data, offset)

    monkeypatch.setattr(os, "pwrite", interrupted)
    with pytest.raises(KeyboardInterrupt):
        repair_stock_checksums(stopped.cluster, stopped.keystore)
    monkeypatch.undo()
    repair_stock_checksums(stopped.cluster, stopped.keystore)
    assert relations(stopped.data_directory) == before


def test_other_damage_is_left_and_told(stopped):
    stock_checksums(stopped, "--disable", "--enable")
    path = next(p for p in sorted(relations(stopped.data_directory)) if p.stat().st_size > 8192)
    assert FileIdentity.from_path(path)
    with path.open("r+b") as file:
        file.seek(8192 + 16)
        file.write(b"x" * 64)
    summary = repair_stock_checksums(stopped.cluster, stopped.keystore)
    assert summary.damaged == 1
    assert summary.damaged_examples == [f"{path.relative_to(stopped.data_directory)}, block 1"]


def test_a_block_that_could_be_several_pages_stops_it_before_anything_is_changed(
    stopped, monkeypatch
):
    from tde import _core

    stock_checksums(stopped, "--disable", "--enable")
    before = relations(stopped.data_directory)
    find = _core.find_overwritten

    def ambiguous(*arguments):
        results = bytearray(find(*arguments))
        results[0] = _core.REPAIR_AMBIGUOUS
        return bytes(results)

    monkeypatch.setattr(_core, "find_overwritten", ambiguous)
    with pytest.raises(DamagedPagesError, match="Nothing was changed"):
        repair_stock_checksums(stopped.cluster, stopped.keystore)
    assert relations(stopped.data_directory) == before


def test_a_running_server_is_refused(stopped):
    stopped.start()
    with pytest.raises(ConversionError, match="is running"):
        repair_stock_checksums(stopped.cluster, stopped.keystore)
