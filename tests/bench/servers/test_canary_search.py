"""The search for the canary row: a search that misses it would call anything encrypted."""

from __future__ import annotations

from pathlib import Path

import pytest
from tde_bench.errors import CanaryError
from tde_bench.servers import canary
from tde_bench.servers.canary import CanaryReport, file_contains, new_marker, require, search

MARKER = b"tde-canary-0123456789"
CHUNK = 64


@pytest.mark.parametrize("offset", range(2 * CHUNK + 2))
def test_marker_is_found_wherever_chunks_end(tmp_path: Path, offset: int) -> None:
    file = tmp_path / "16384"
    file.write_bytes(b"\0" * offset + MARKER + b"\0" * 5)
    assert file_contains(file, MARKER, chunk_bytes=CHUNK)


@pytest.mark.parametrize("chunk", [1, 2, len(MARKER) - 1, len(MARKER), 1000])
def test_marker_is_found_with_any_chunk_size(tmp_path: Path, chunk: int) -> None:
    file = tmp_path / "16384"
    file.write_bytes(b"t" * 100 + MARKER)
    assert file_contains(file, MARKER, chunk_bytes=chunk)


@pytest.mark.parametrize("content", [b"", MARKER[:-1], MARKER[:-1] * 20, MARKER[1:] + MARKER[:-1]])
def test_parts_of_the_marker_are_not_the_marker(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "16384"
    file.write_bytes(content)
    for chunk in (1, 7, CHUNK):
        assert not file_contains(file, MARKER, chunk_bytes=chunk)


def test_marker_across_the_real_chunk_size_is_found(tmp_path: Path) -> None:
    file = tmp_path / "16384"
    with file.open("wb") as stream:
        stream.truncate(canary.CHUNK_BYTES - 3)
        stream.seek(0, 2)
        stream.write(MARKER)
    assert file_contains(file, MARKER)


def _plant(directory: Path, name: str, content: bytes = b"x" + MARKER) -> None:
    path = directory / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def test_every_kind_of_file_is_searched(tmp_path: Path) -> None:
    data, space = tmp_path / "data", tmp_path / "space"
    segment = "000000010000000000000001"
    _plant(data, "base/5/16384")
    _plant(data, "base/5/16385", b"nothing here")
    _plant(data, f"pg_wal/{segment}")
    _plant(data, "pg_xact/0000")
    _plant(space, "PG_15_202209061/5/16390")
    (data / "pg_tblspc").mkdir()
    (data / "pg_tblspc/16389").symlink_to(space)
    report = search(data, MARKER)
    assert report.files_searched == 5
    assert report.bytes_searched == 4 * (len(MARKER) + 1) + len(b"nothing here")
    assert report.relation_files == (
        "base/5/16384",
        "pg_tblspc/16389/PG_15_202209061/5/16390",
    )
    assert report.wal_files == (f"pg_wal/{segment}",)
    assert report.other_files == ("pg_xact/0000",)
    assert len(report.found) == 4


def test_a_file_that_must_be_searched_and_is_not_there_is_an_error(tmp_path: Path) -> None:
    _plant(tmp_path, "base/5/16384")
    with pytest.raises(CanaryError, match="did not read base/5/16999"):
        search(tmp_path, MARKER, must_search=frozenset({"base/5/16384", "base/5/16999"}))


def test_markers_differ_and_are_long() -> None:
    assert new_marker() != new_marker()
    assert len(new_marker()) > 40


def _report(*, relation: bool, wal: bool) -> CanaryReport:
    return CanaryReport(9, 9, ("base/5/1",) if relation else (), ("0" * 24,) if wal else (), ())


@pytest.mark.parametrize(("relation", "wal"), [(True, False), (False, True), (True, True)])
def test_plaintext_in_an_encrypted_cluster_stops_the_run(relation: bool, wal: bool) -> None:
    with pytest.raises(CanaryError, match="AES-256 is not encrypted"):
        require(_report(relation=relation, wal=wal), encrypted=True, label="AES-256")


@pytest.mark.parametrize(("relation", "wal"), [(True, False), (False, True), (False, False)])
def test_a_search_that_finds_nothing_in_a_plain_cluster_is_broken(
    relation: bool, wal: bool
) -> None:
    with pytest.raises(CanaryError, match="search is broken"):
        require(_report(relation=relation, wal=wal), encrypted=False, label="none")


def test_what_configurations_promise_is_accepted() -> None:
    require(_report(relation=False, wal=False), encrypted=True, label="AES-256")
    require(_report(relation=True, wal=True), encrypted=False, label="none")
