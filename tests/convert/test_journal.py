"""The journal of a conversion: whole records are found, torn ones are not, damage is refused."""

from __future__ import annotations

import os

import pytest

from tde.convert import journal
from tde.convert.blocks import SAMPLES_PER_BLOCK
from tde.convert.earlier_runs import read_earlier_runs
from tde.convert.extents import Extent, data_ranges, without
from tde.convert.journal import BlockJournal, DoneFiles, RecordKey
from tde.errors import ConversionError

KEY = RecordKey(b"k" * 32, "this one")
RECORDS = [
    [(Extent(0, 0, 2), 11, b"a" * 2 * SAMPLES_PER_BLOCK)],
    [
        (Extent(0, 2, 1), 12, b"b" * SAMPLES_PER_BLOCK),
        (Extent(7, 5, 3), 13, os.urandom(3 * SAMPLES_PER_BLOCK)),
    ],
]


def write(directory, records, run=1):
    done = DoneFiles(directory, run, KEY)
    blocks = BlockJournal(directory, run, 0, done, KEY)
    for record in records:
        blocks.append(record)
    blocks.close()
    return done


def found_in(directory):
    return {
        (entry.extent, entry.digest, entry.read_samples())
        for entries in read_earlier_runs(directory, KEY).touched.values()
        for entry in entries
    }


def test_an_empty_journal_is_that_of_a_first_run(tmp_path):
    earlier = read_earlier_runs(tmp_path, KEY)
    assert (earlier.run, earlier.done, earlier.touched) == (1, set(), {})


def test_records_and_done_files_of_several_runs(tmp_path):
    done = write(tmp_path, RECORDS)
    done.add(0)
    done.close()
    write(tmp_path, [[(Extent(9, 1, 1), 14, b"c" * SAMPLES_PER_BLOCK)]], run=2).close()
    earlier = read_earlier_runs(tmp_path, KEY)
    assert earlier.run == 3
    assert earlier.done == {0}
    assert sorted(earlier.touched) == [7, 9]
    assert earlier.touched[7][0].read_samples() == RECORDS[1][1][2]


def test_a_record_torn_anywhere_is_as_if_it_were_not_there(tmp_path):
    write(tmp_path, RECORDS).close()
    path = tmp_path / "blocks-1-0-0"
    whole = path.read_bytes()
    first = set(RECORDS[0])
    length = len(whole)
    write_length = 28 + 16 + 2 * SAMPLES_PER_BLOCK  # Header, one extent, its samples.
    for cut in [*range(write_length, length, 41), length - 1]:
        path.write_bytes(whole[:cut])
        assert found_in(tmp_path) == first
        # A power failure may leave the new length and zeros where data was not written.
        path.write_bytes(whole[:cut] + bytes(length - cut))
        assert found_in(tmp_path) == (first if any(whole[cut:]) else first | set(RECORDS[1]))
    path.write_bytes(whole)
    assert found_in(tmp_path) == first | set(RECORDS[1])


def test_a_damaged_record_before_a_whole_one_is_refused(tmp_path):
    write(tmp_path, RECORDS).close()
    path = tmp_path / "blocks-1-0-0"
    data = bytearray(path.read_bytes())
    for place in (0, 9, 20, 50, 200):
        damaged = bytearray(data)
        damaged[place] ^= 0xFF
        path.write_bytes(damaged)
        with pytest.raises(ConversionError, match="is damaged at byte 0") as caught:
            read_earlier_runs(tmp_path, KEY)
        assert caught.value.remedy


def test_a_torn_note_of_a_done_file_is_ignored(tmp_path):
    done = write(tmp_path, [])
    done.add(3)
    done.add(4)
    done.close()
    path = tmp_path / "done-1"
    data = path.read_bytes()
    path.write_bytes(data[:-1])
    assert read_earlier_runs(tmp_path, KEY).done == {3}
    path.write_bytes(data[:20] + bytes(20))
    assert read_earlier_runs(tmp_path, KEY).done == {3}


def test_records_of_another_conversion_do_not_count(tmp_path):
    done = write(tmp_path, RECORDS)
    done.add(0)
    done.close()
    other = read_earlier_runs(tmp_path, RecordKey(b"k" * 32, "another one"))
    assert (other.run, other.done, other.touched) == (2, set(), {})


def test_an_extent_that_several_runs_have_journaled_is_one(tmp_path):
    for run in (1, 2):
        write(tmp_path, RECORDS, run).close()
    earlier = read_earlier_runs(tmp_path, KEY)
    assert [len(earlier.touched[file]) for file in (0, 7)] == [2, 1]


def test_samples_that_change_after_they_were_found_are_noticed(tmp_path):
    write(tmp_path, RECORDS).close()
    found = read_earlier_runs(tmp_path, KEY).touched[7][0]
    path = tmp_path / "blocks-1-0-0"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(ConversionError, match="is damaged at byte"):
        found.read_samples()


def test_records_are_kept_until_their_files_are_durably_done(tmp_path, monkeypatch):
    monkeypatch.setattr(journal, "ROTATE_BYTES", 0)  # Every record gets a file of its own.
    done = DoneFiles(tmp_path, 1, KEY)
    blocks = BlockJournal(tmp_path, 1, 0, done, KEY)

    def append(file):
        blocks.append([(Extent(file, 0, 1), 0, b"x" * SAMPLES_PER_BLOCK)])
        return {path.name for path in tmp_path.glob("blocks-*")}

    append(0)
    append(1)
    done.add(1)
    assert append(2) == {"blocks-1-0-0", "blocks-1-0-2"}
    done.add(0)
    assert append(3) == {"blocks-1-0-2", "blocks-1-0-3"}
    blocks.close()
    done.close()


def test_holes_are_not_read(tmp_path):
    path = tmp_path / "sparse"
    with path.open("wb") as file:
        file.truncate(100 * 8192)
        file.seek(10 * 8192)
        file.write(b"x")
        file.seek(50 * 8192 - 1)
        file.write(b"yy")
    with path.open("rb") as file:
        found = list(data_ranges(file.fileno(), 100))
    assert found in ([(10, 11), (49, 51)], [(0, 100)])  # The latter where there are no holes.


def test_what_is_left_of_ranges():
    assert list(without([(0, 10), (20, 30)], [(0, 2), (5, 6), (9, 22), (29, 30)])) == [
        (2, 5),
        (6, 9),
        (22, 29),
    ]
    assert list(without([(0, 4)], [])) == [(0, 4)]
    assert list(without([(0, 4)], [(0, 4)])) == []
