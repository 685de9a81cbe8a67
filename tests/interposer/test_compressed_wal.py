"""Segments that pg_receivewal compresses: encrypted before, whole at each flush, or refused."""

from __future__ import annotations

import random
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
from compressed import AES_BLOCK, SEGMENT_NAME, SUFFIXES, build_receiver, stored_form
from decompress import decompress
from harness import Harness, make_data_directory
from hypothesis import HealthCheck, given, settings, strategies as st

from tde.keystore import Keystore

BLOCK = 8192
SECTOR = 512
MARK = b"canary-in-a-compressed-segment"

each_kind = pytest.mark.parametrize("kind", SUFFIXES)
common = settings(
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@pytest.fixture(scope="session")
def receiver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_receiver(tmp_path_factory.mktemp("receiver"), "pg_receivewal", "receiver.c")


@pytest.fixture
def harness(tmp_path: Path, keystore: Keystore) -> Harness:
    return Harness(make_data_directory(tmp_path / "data"), keystore)


@dataclass(frozen=True)
class Script:
    """Stretches of zeros, text and noise, cut where the program flushes what it has."""

    stretches: tuple[tuple[str, int], ...]
    cuts: tuple[int, ...]

    def data(self) -> bytes:
        noise = random.Random(1).randbytes
        makers = {"zeros": bytes, "text": lambda n: (MARK * n)[:n], "noise": noise}
        return b"".join(makers[kind](length) for kind, length in self.stretches)

    def ends(self) -> list[int]:
        length = sum(length for _, length in self.stretches)
        return [*sorted(min(cut, length) for cut in self.cuts), length]


near = st.builds(lambda n, off: max(1, n * BLOCK + off), st.integers(0, 3), st.integers(-20, 20))
lengths = st.one_of(near, st.integers(1, 600), st.integers(1, 20000))
scripts = st.builds(
    Script,
    st.lists(
        st.tuples(st.sampled_from(["zeros", "text", "noise"]), lengths), min_size=1, max_size=5
    ).map(tuple),
    st.lists(st.one_of(near, st.integers(0, 40000)), max_size=5).map(tuple),
)


def steps_of(length: int, sizes: list[int]) -> list[str]:
    """Writes of these sizes in turn, and the rest in one."""
    steps, done = [], 0
    for size in sizes:
        if done + size > length:
            break
        steps.append(f"write:{size}")
        done += size
    return [*steps, f"write:{length - done}"] if done < length else steps


def run(harness: Harness, receiver: Path, kind: str, data: bytes, steps: list[str]) -> str:
    (harness.data / "bytes").write_bytes(data + b"\0")
    arguments = [SEGMENT_NAME + SUFFIXES[kind], "bytes", kind, *steps]
    return harness.execute(receiver, arguments, check=False).stdout


def torn(old: bytes, new: bytes, start: int) -> list[bytes]:
    """What a machine that stops may leave of NEW over OLD: a sector is one or the other."""
    made = []
    for cut in range(start - start % SECTOR, len(new), SECTOR):
        beyond = new[cut + SECTOR :]
        made.append(new[: cut + SECTOR] + old[cut + SECTOR :])
        made.append(new[:cut] + old[cut : cut + SECTOR].ljust(SECTOR, b"\0") + beyond)
    return made[:8]


def check(
    base: Path, keystore: Keystore, receiver: Path, kind: str, script: Script, sizes: list[int]
) -> None:
    shutil.rmtree(base, ignore_errors=True)
    harness = Harness(make_data_directory(base), keystore)
    data, ends = script.data(), script.ends()
    steps, done = [], 0
    for number, end in enumerate(ends):
        steps += [*steps_of(end - done, sizes), f"flush:copy.{number}"]
        done = end
    assert run(harness, receiver, kind, data, [*steps[:-1], "close"]) == ""

    expected = stored_form(keystore, data)
    final = (harness.data / (SEGMENT_NAME + SUFFIXES[kind])).read_bytes()
    assert decompress(kind, final) == (expected, True)
    copies = [(harness.data / f"copy.{n}").read_bytes() for n in range(len(ends) - 1)]
    laters = [*copies[1:], final]
    for end, after, copy, later in zip(ends, ends[1:], copies, laters, strict=False):
        reported = stored_form(keystore, data[:end])
        assert decompress(kind, copy)[0] == reported
        check_torn(kind, copy, later, reported, stored_form(keystore, data[:after]), expected)


def check_torn(
    kind: str, old: bytes, new: bytes, reported: bytes, following: bytes, expected: bytes
) -> None:
    """Whatever part of the next bytes is on the disk, what was reported before is as well."""
    first = next((i for i, (a, b) in enumerate(zip(old, new, strict=False)) if a != b), len(old))
    block = (len(reported) - 1) // BLOCK * BLOCK if reported else 0
    has_data = any(reported[block:])
    # A block of WAL begins with a header, so in one of zeros there is nothing yet.
    safe = len(reported) - AES_BLOCK if has_data else block
    last = slice(safe, len(reported))
    for image in torn(old, new, first):
        found = decompress(kind, image)[0]
        assert found[:safe] == expected[:safe]
        if has_data:
            # The last AES block is as it was reported, or as it became.
            assert found[last] in (reported[last], following[last], expected[last])


@settings(common, max_examples=25)
@given(script=scripts, sizes=st.lists(st.integers(1, 9000), max_size=12))
@each_kind
def test_every_flush_leaves_what_the_plain_file_would_hold(
    tmp_path: Path,
    keystore: Keystore,
    receiver: Path,
    kind: str,
    script: Script,
    sizes: list[int],
) -> None:
    check(tmp_path / "run", keystore, receiver, kind, script, sizes)


@each_kind
def test_small_flushed_writes_at_every_position_of_a_sector(
    tmp_path: Path, keystore: Keystore, receiver: Path, kind: str
) -> None:
    cuts = range(40, 3000, 40)
    check(tmp_path / "run", keystore, receiver, kind, Script((("noise", 3000),), tuple(cuts)), [])


@each_kind
def test_a_segment_that_is_streamed_again_replaces_the_longer_one(
    harness: Harness, receiver: Path, kind: str
) -> None:
    noise = random.Random(2).randbytes(50000)
    assert run(harness, receiver, kind, noise, ["write:50000", "flush:copy"]) == ""
    assert run(harness, receiver, kind, noise, ["write:3000", "flush:copy", "close"]) == ""
    stored = (harness.data / (SEGMENT_NAME + SUFFIXES[kind])).read_bytes()
    assert harness.keystore is not None
    assert decompress(kind, stored) == (stored_form(harness.keystore, noise[:3000]), True)


@each_kind
@pytest.mark.parametrize("suffix", ["", ".partial"])
def test_what_does_not_come_from_the_compressor_is_not_written(
    harness: Harness, receiver: Path, kind: str, suffix: str
) -> None:
    name = SEGMENT_NAME + SUFFIXES[kind] + suffix
    (harness.data / "bytes").write_bytes(MARK * 10000)
    steps = ["write:100", "sneak:100000", "close"]
    done = harness.execute(receiver, [name, "bytes", kind, *steps], check=False)
    assert done.stdout == "sneak: Operation not permitted\n"
    assert f"refused to write {harness.data / name}" in done.stderr
    assert MARK not in (harness.data / name).read_bytes()
    assert MARK not in decompress(kind, (harness.data / name).read_bytes())[0]


@each_kind
def test_what_reaches_the_compressor_on_another_way_is_not_written(
    harness: Harness, receiver: Path, kind: str
) -> None:
    done = run(harness, receiver, kind, MARK * 10000, ["write:100", "other:10000", "write:100"])
    assert "write" in done or "other" in done
    stored = (harness.data / (SEGMENT_NAME + SUFFIXES[kind])).read_bytes()
    assert MARK not in decompress(kind, stored)[0]
    done = run(harness, receiver, kind, MARK * 10000, ["other:1000", "close"])
    assert "Operation not permitted" in done or "other" in done
    stored = (harness.data / (SEGMENT_NAME + SUFFIXES[kind])).read_bytes()
    assert MARK not in decompress(kind, stored)[0]


def test_a_compressor_that_tde_does_not_know_is_refused(harness: Harness, receiver: Path) -> None:
    (harness.data / "bytes").write_bytes(MARK)
    done = harness.execute(receiver, [f"{SEGMENT_NAME}.zst", "bytes", "gzip"], check=False)
    assert done.stdout == "open: Operation not supported\n"
    assert "would not be encrypted" in done.stderr
    assert not (harness.data / f"{SEGMENT_NAME}.zst").exists()


@each_kind
def test_a_full_disk_is_reported_as_without_tde(
    harness: Harness, receiver: Path, kind: str
) -> None:
    noise = random.Random(3).randbytes(200000)
    limit = ["bash", "-c", 'trap "" XFSZ; ulimit -f 40; exec "$@"', "bash"]
    (harness.data / "bytes").write_bytes(noise)
    arguments = [SEGMENT_NAME + SUFFIXES[kind], "bytes", kind, "write:200000", "close"]
    done = harness.execute(receiver, arguments, check=False, under=limit)
    assert done.returncode == 1
    assert done.stdout in ("write: File too large\n", "write: No space left on device\n")


@each_kind
def test_what_is_replaced_does_not_depend_on_what_follows(
    tmp_path: Path, keystore: Keystore, receiver: Path, kind: str
) -> None:
    """Blocks of zeros make a compressor look far back, in blocks that end far away."""
    for reported in range(400, 530, 11):
        stretches = (("noise", reported), ("text", 40), ("zeros", 4 * BLOCK))
        script = Script(stretches, (reported,))
        check(tmp_path / "run", keystore, receiver, kind, script, [])


@each_kind
def test_zeros_that_arrive_before_the_data_of_their_block_are_encrypted(
    tmp_path: Path, keystore: Keystore, receiver: Path, kind: str
) -> None:
    stretches = (("zeros", BLOCK + 100), ("text", 60), ("zeros", 2 * BLOCK))
    script = Script(stretches, (40, BLOCK + 50, BLOCK + 120))
    check(tmp_path / "run", keystore, receiver, kind, script, [7] * 20)
