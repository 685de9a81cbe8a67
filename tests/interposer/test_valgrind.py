"""valgrind on the driver: no invalid access, and nothing that grows with the files opened."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tde import Algorithm
from tde.keystore import KeyOwner, Keystore
from tde.postgres.cluster.keymap import KEYMAP_FILE, KeySource, MapEntry, map_key, pack_map
from tests.interposer.harness import (
    RELATION,
    SEGMENT,
    TEMPORARY,
    UNDER_ASAN,
    Harness,
    make_data_directory,
    make_keystore,
    valgrind,
)

pytestmark = [
    pytest.mark.skipif(
        shutil.which("valgrind") is None,
        reason="valgrind is not installed; run: apt-get install valgrind",
    ),
    pytest.mark.skipif(UNDER_ASAN, reason="two sanitizers cannot share a process"),
]

# What one file goes through: every class, copies of descriptors, partial units, names.
ROUND = f"""
open 0 {RELATION} rw,creat
pwrite 0 8192 1 0
pwrite 0 16 2 32
pwritev 0 0 3 8192 100 8092
pread 0 20000 0
preadv 0 5 0 100 9000
dup 0 1 dup2 150
close 0
pread 1 8192 0
close 1
open 2 {SEGMENT} rw,creat
write 2 8192 4
closerange 2
open 3 {TEMPORARY} rw,creat
write 3 77 5
ftruncate 3 8195
read 3 100
close 3
open 4 pg_wal/xlogtemp.9 rw,creat
write 4 100 6
close 4
rename pg_wal/xlogtemp.9 pg_wal/00000002.history
open 5 base/5/t3_16385 rw,creat
write 5 8192 7
copyrange 5 5 0
closefrom 5
open 6 postgresql.conf rw,creat
fopen {SEGMENT} r
fopen {SEGMENT} w
mmap 6
close 6
"""


def check(base: Path, keystore: Keystore, driver: Path, rounds: int) -> int:
    """Run the round so often under valgrind; returns the bytes that are in use at the end."""
    harness = Harness(make_data_directory(base / f"{rounds}"), keystore)
    script = base / f"script{rounds}"
    script.write_text(ROUND * rounds)
    run = harness.execute(driver, [str(script)], under=valgrind(), check=False)
    assert run.returncode == 0, run.stderr
    # Only the interposer refuses the stream, so it was there.
    assert run.stdout.count("fopen: -1") == rounds
    in_use = re.search(r"in use at exit: ([\d,]+) bytes", run.stderr)
    assert in_use is not None, run.stderr
    return int(in_use[1].replace(",", ""))


@pytest.mark.parametrize("variant", ["plain", "thread", "child"])
def test_no_invalid_access_and_no_leak(
    tmp_path: Path, keystore: Keystore, build: Callable[..., Path], variant: str
) -> None:
    check(tmp_path, keystore, build(variant), 2)


def test_nothing_is_kept_for_each_opened_file(
    tmp_path: Path, keystore: Keystore, build: Callable[..., Path]
) -> None:
    few, many = (check(tmp_path, keystore, build(), rounds) for rounds in (2, 50))
    assert many == few


@pytest.mark.slow
def test_nothing_is_kept_for_thousands_of_opened_files(
    tmp_path: Path, keystore: Keystore, build: Callable[..., Path]
) -> None:
    few, many = (check(tmp_path, keystore, build(), rounds) for rounds in (2, 400))
    assert many == few


DERIVED = 16402


def instructions(harness: Harness, driver: Path, path: str, opens: int) -> int:
    """Return how many instructions a program executes that opens a file so often."""
    (harness.data / path).touch()
    script = harness.data / "script.txt"
    script.write_text(f"open 0 {path} rw\nclose 0\n" * opens)
    counting = ("valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null")
    run = harness.execute(driver, [str(script)], under=counting)
    collected = re.search(r"Collected : (\d+)", run.stderr)
    assert collected is not None, run.stderr
    return int(collected[1])


def test_a_derived_key_costs_nothing_at_an_open(tmp_path: Path, build: Callable[..., Path]) -> None:
    """No file is read and nothing derived again: an open costs what it does in pg_default."""
    costs = []
    with make_keystore(tmp_path / "keystore") as keystore:
        keystore.create_key(KeyOwner.other_tablespaces(), Algorithm.AES256)
        harness = Harness(make_data_directory(tmp_path / "data"), keystore)
        entries = [MapEntry(DERIVED, KeySource.DERIVED)]
        content = pack_map(entries, keystore.uuid, map_key(keystore))
        (harness.data / KEYMAP_FILE).write_bytes(content)
        for path in (RELATION, f"pg_tblspc/{DERIVED}/PG_15_202209061/5/1"):
            few, many = (instructions(harness, build(), path, opens) for opens in (100, 1100))
            costs.append((many - few) / 1000)
    # The longer path is looked at, too.
    assert costs[1] < 1.5 * costs[0], costs
