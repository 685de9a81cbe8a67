"""Two processes with the same encrypted file: one step at a time, and truly at the same time."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings, strategies as st

from tde.keystore import Keystore
from tests.interposer.block_model import (
    BLOCK,
    LIMIT,
    assert_no_block_is_plaintext,
    check_stored,
    common,
    operations,
)
from tests.interposer.harness import (
    RELATION,
    SEGMENT,
    TEMPORARY,
    Harness,
    build_program,
    make_data_directory,
)

every_class = pytest.mark.parametrize(
    "file", [RELATION, SEGMENT, TEMPORARY], ids=["relation", "WAL", "temporary file"]
)


def twins(base: Path, keystore: Keystore) -> tuple[Harness, Harness]:
    """Make an encrypted and a plain data directory, in place of those of the last example."""
    shutil.rmtree(base, ignore_errors=True)
    return (
        Harness(make_data_directory(base / "encrypted"), keystore),
        Harness(make_data_directory(base / "plain"), None),
    )


@st.composite
def interleavings(draw: st.DrawFn, unit: int) -> list[str]:
    """Lines that begin with the number of the process that runs them."""
    step = st.tuples(st.sampled_from("01"), operations(unit)).map(" ".join)
    return draw(st.lists(step, min_size=2, max_size=16))


def check_steps(
    base: Path, keystore: Keystore, driver: Path, file: str, data: st.DataObject
) -> None:
    steps = data.draw(interleavings(1 if file == TEMPORARY else 16))
    lines = [
        f"0 open 0 {file} rw,creat",
        f"1 open 0 {file} rw",
        *steps,
        # What each has written is what both see.
        *(f"{process} pread 0 {3 * LIMIT} 0" for process in (0, 1)),
    ]
    encrypted, plain = twins(base, keystore)
    script = "".join(f"{line}\n" for line in lines)
    assert encrypted.run(driver, script).splitlines() == plain.run(driver, script).splitlines()
    content = (plain.data / file).read_bytes()
    check_stored(encrypted.data / file, keystore, file, content)


@settings(common, max_examples=40)
@given(data=st.data())
@every_class
def test_steps_of_two_processes(
    tmp_path: Path, keystore: Keystore, build: Callable[..., Path], file: str, data: st.DataObject
) -> None:
    check_steps(tmp_path / "run", keystore, build("steps"), file, data)


@pytest.mark.slow
@settings(common, max_examples=1000)
@given(data=st.data())
@every_class
def test_many_steps_of_two_processes(
    tmp_path: Path, keystore: Keystore, build: Callable[..., Path], file: str, data: st.DataObject
) -> None:
    check_steps(tmp_path / "run", keystore, build("steps"), file, data)


def alone(start: int, end: int, seeds: st.SearchStrategy[int]) -> st.SearchStrategy[list[str]]:
    """Writes into a range that no other process writes to, each read again at once."""

    def step(first: int, last: int, seed: int) -> list[str]:
        offset, length = 16 * min(first, last), 16 * (abs(last - first) + 1)
        return [f"pwrite 0 {length} {seed} {offset}", f"pread 0 {end - start} {start}"]

    place = st.integers(start // 16, end // 16 - 1)
    return st.lists(st.builds(step, place, place, seeds), min_size=5, max_size=15).map(
        lambda steps: [line for lines in steps for line in lines]
    )


@settings(common, max_examples=25)
@given(data=st.data(), border=st.integers(1, BLOCK // 16 - 2))
@every_class
def test_writers_of_different_bytes_of_one_block(
    tmp_path: Path,
    keystore: Keystore,
    build: Callable[..., Path],
    file: str,
    data: st.DataObject,
    border: int,
) -> None:
    """docs/format.md, section 4: no byte outside of a write changes, not even for a moment."""
    # The 16 bytes in the middle are data that nobody writes to, so the block is never zeros.
    ranges = [(0, border * 16), (border * 16 + 16, BLOCK)]
    writers = [data.draw(alone(*span, st.integers(0, 5))) for span in ranges]
    reader = [f"pread 0 16 {border * 16}"] * 40
    encrypted, plain = twins(tmp_path / "run", keystore)
    bodies = [f"open 0 {file} rw,creat\npwrite 0 {BLOCK} 9 0\n"]
    for lines in (*writers, reader):
        bodies.append("\n".join([f"open 0 {file} rw", *lines * 5, ""]))
    scripts = [tmp_path / f"run/script{i}" for i in range(len(bodies))]
    for script, body in zip(scripts, bodies, strict=True):
        script.write_text(body)
    outputs = []
    for harness in (plain, encrypted):
        harness.execute(build("processes"), [str(scripts[0]), "--", *map(str, scripts[1:])])
        outputs.append([Path(f"{script}.out").read_text() for script in scripts])
    assert outputs[0] == outputs[1]
    content = (plain.data / file).read_bytes()
    if file == TEMPORARY:
        assert_no_block_is_plaintext(content, (encrypted.data / file).read_bytes())
    else:
        check_stored(encrypted.data / file, keystore, file, content)


def test_wal_that_is_read_while_it_is_received(
    tmp_path: Path, keystore: Keystore, build: Callable[..., Path]
) -> None:
    """A record ends at a multiple of 8 bytes, so what was flushed may end inside an AES block."""
    encrypted, _ = twins(tmp_path / "run", keystore)
    flushed = 8 * 501
    writes = [f"pwrite 0 {length} {i} {flushed}" for i in range(2, 1000) for length in (8, 56)]
    bodies = {
        "first": [f"open 0 {SEGMENT} rw,creat", f"ftruncate 0 {BLOCK}", f"pwrite 0 {flushed} 1 0"],
        "writer": [f"open 0 {SEGMENT} rw", *writes],
        "reader": [f"open 0 {SEGMENT} ro", *[f"pread 0 {flushed} 0"] * 2000],
    }
    scripts = {name: tmp_path / name for name in bodies}
    for name, lines in bodies.items():
        scripts[name].write_text("\n".join([*lines, ""]))
    first, *others = (str(script) for script in scripts.values())
    encrypted.execute(build("processes"), [first, "--", *others])
    opened, *reads = Path(f"{scripts['reader']}.out").read_text().splitlines()
    assert opened == "open: 0"
    # What a single read returned and its digest, the same each time.
    assert len(reads) == 4000
    assert len(set(reads)) == 2


def torn_reads(base: Path, keystore: Keystore, pieces: int, shift: int, reads: int) -> int:
    """Count the reads, beside a writer, in which flushed bytes came out wrong."""
    encrypted, _ = twins(base / "run", keystore)
    reader = build_program(base, "torn_read.c", name="postgres", options=("-rdynamic",))
    return int(encrypted.execute(reader, [str(pieces), str(shift), str(reads)]).stdout)


def test_flushed_wal_is_not_torn_in_the_startup_process(tmp_path: Path, keystore: Keystore) -> None:
    """PostgreSQL 15 replays from a buffer at 8 mod 16, where the kernel tears AES blocks."""
    assert torn_reads(tmp_path, keystore, pieces=1, shift=8, reads=200_000) == 0


@pytest.mark.slow
@pytest.mark.parametrize("shift", [0, 8, 16])
@pytest.mark.parametrize("pieces", [1, 2])
def test_flushed_wal_is_not_torn_wherever_it_is_read_to(
    tmp_path: Path, keystore: Keystore, pieces: int, shift: int
) -> None:
    """At 0 the kernel copies into the caller's memory, and does not tear what lies as the page."""
    assert torn_reads(tmp_path, keystore, pieces, shift, reads=4_000_000) == 0
