"""The model of a disk loses what it may lose, keeps what was synced, and is reproducible."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from random import Random

import pytest

from tests.power_loss.disk import Disk, Names
from tests.power_loss.journal import Record

STATES = 60


def change(what: str, path: str = "", *, file: int = 0, a: int = 0, b: int = 0o600) -> Record:
    return Record(what, file, a, b, path, "", b"")


def write(file: int, data: bytes, offset: int = 0, what: str = "w") -> Record:
    return Record(what, file, offset, 0, "", "", data)


def rename(old: str, new: str) -> Record:
    return Record("r", 0, 0, 0, old, new, b"")


def states(
    tmp_path: Path, records: Sequence[Record], names: Names = Names.JOURNAL, sector: int = 512
) -> list[dict[str, bytes | None]]:
    """Return what many crashes leave, as contents by path; None for a directory."""
    base = tmp_path / "base"
    base.mkdir()
    (base / "old").write_bytes(b"o" * 2048)
    (base / "old").chmod(0o600)
    disk = Disk(base, names)
    # Files belong to the current user, whoever that is.
    owner = base.stat().st_uid << 32 | base.stat().st_gid
    for record in records:
        if record.what in "cms":
            record = Record(record.what, record.file, owner, record.b, record.path, "", b"")
        disk.feed(record)
    found = []
    for number in range(STATES):
        target = tmp_path / f"state-{number}"
        target.mkdir()
        disk.crash(Random(number), sector, target)
        found.append(
            {
                str(path.relative_to(target)): None if path.is_dir() else path.read_bytes()
                for path in target.rglob("*")
            }
        )
    return found


KNOWN = change("k", "/old", file=9)
CREATED = change("c", "/new", file=1)


def test_synced_data_stays_and_other_data_is_torn_at_sectors(tmp_path: Path) -> None:
    records = [KNOWN, write(9, b"s" * 1024), change("f", "/old", file=9), write(9, b"n" * 2048)]
    contents = {state["old"] for state in states(tmp_path, records)}
    assert {b"n" * 2048, b"s" * 1024 + b"o" * 1024} <= contents
    assert len(contents) > 4, "some are torn"
    for content in contents:
        assert content is not None
        for start in range(0, 2048, 512):
            before = b"s" if start < 1024 else b"o"
            assert content[start : start + 512] in (b"n" * 512, before * 512)


def test_a_larger_sector_is_torn_at_its_edges_only(tmp_path: Path) -> None:
    contents = {s["old"] for s in states(tmp_path, [KNOWN, write(9, b"n" * 2048)], sector=4096)}
    assert contents == {b"o" * 2048, b"n" * 2048}


def test_what_is_written_with_o_dsync_is_durable(tmp_path: Path) -> None:
    records = [KNOWN, write(9, b"n" * 2048, what="W")]
    assert {state["old"] for state in states(tmp_path, records)} == {b"n" * 2048}


@pytest.mark.parametrize("names", Names)
def test_a_name_may_be_lost_until_it_is_synced(tmp_path: Path, names: Names) -> None:
    found = states(tmp_path, [CREATED, write(1, b"x" * 512)], names)
    assert {"new" in state for state in found} == {True, False}


@pytest.mark.parametrize("names", Names)
@pytest.mark.parametrize("how", ["f", "D"])
def test_a_sync_of_a_new_file_keeps_its_name(tmp_path: Path, names: Names, how: str) -> None:
    records = [CREATED, write(1, b"x" * 512), change(how, "/new", file=1)]
    assert {state.get("new") for state in states(tmp_path, records, names)} == {b"x" * 512}


@pytest.mark.parametrize("names", Names)
def test_a_file_is_replaced_wholly_or_not_at_all(tmp_path: Path, names: Names) -> None:
    """Write, sync, rename: what every atomic write relies on."""
    records = [
        *(CREATED, write(1, b"x" * 2048), change("f", "/new", file=1)),
        rename("/new", "/old"),
    ]
    assert {state["old"] for state in states(tmp_path, records, names)} == {
        b"o" * 2048,
        b"x" * 2048,
    }


def test_a_replacement_without_a_sync_may_be_torn(tmp_path: Path) -> None:
    records = [CREATED, write(1, b"x" * 2048), rename("/new", "/old")]
    found = {state["old"] for state in states(tmp_path, records)}
    assert not found <= {b"o" * 2048, b"x" * 2048}


def test_names_are_kept_in_order(tmp_path: Path) -> None:
    records = [change("c", f"/f{n}", file=n + 1) for n in range(6)]
    for state in states(tmp_path, records):
        there = sorted(int(name[1:]) for name in state if name.startswith("f"))
        assert there == list(range(len(there)))


def test_fdatasync_of_a_file_that_did_not_grow_keeps_no_names(tmp_path: Path) -> None:
    """As ext4 does: WAL in a recycled segment says nothing of files made before."""
    records = [KNOWN, CREATED, write(9, b"n" * 512), change("D", "/old", file=9)]
    found = states(tmp_path, records)
    assert {state["old"] for state in found} == {b"n" * 512 + b"o" * 1536}
    assert {"new" in state for state in found} == {True, False}


IN_DIRECTORIES = [
    change("m", "/a", b=0o700),
    change("c", "/a/x", file=1),
    change("m", "/b", b=0o700),
    change("c", "/b/y", file=2),
    change("f", "/b/y", file=2),
]


def test_a_journal_keeps_all_that_came_before(tmp_path: Path) -> None:
    for state in states(tmp_path, IN_DIRECTORIES):
        assert {"a", "a/x", "b", "b/y"} <= set(state)


def test_directories_keep_their_own_names_and_the_way_to_them(tmp_path: Path) -> None:
    found = states(tmp_path, IN_DIRECTORIES, Names.DIRECTORIES)
    assert all({"a", "b", "b/y"} <= set(state) for state in found)
    assert {"a/x" in state for state in found} == {True, False}


def test_a_renamed_directory_takes_its_files_along(tmp_path: Path) -> None:
    records = [
        change("m", "/a", b=0o700),
        change("c", "/a/x", file=1),
        rename("/a", "/b"),
        change("F", "/b"),
    ]
    for state in states(tmp_path, records):
        assert set(state) == {"old", "b", "b/x"}


def test_a_state_is_the_same_each_time(tmp_path: Path) -> None:
    records = [KNOWN, CREATED, write(9, b"n" * 2048), write(1, b"x" * 2048)]
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    assert states(tmp_path / "one", records) == states(tmp_path / "two", records)
