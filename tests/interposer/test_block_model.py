"""Random operations against a plain file as the model: output, content and length agree."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from harness import RELATION, SEGMENT, TEMPORARY, Harness, make_data_directory
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from stored import decode

from tde import RelationIdentity, WalIdentity
from tde.keystore import KeyOwner, Keystore

BLOCK = 8192
LIMIT = 6 * BLOCK  # Few blocks, so that operations meet each other in the same ones.


def aligned(unit: int) -> st.SearchStrategy[int]:
    """Offsets and lengths, often at or next to a multiple of a block."""
    near = st.builds(
        lambda block, delta: max(0, block * BLOCK + delta * unit),
        st.integers(0, LIMIT // BLOCK),
        st.integers(-3, 3),
    )
    return st.one_of(near, st.integers(0, LIMIT // unit).map(lambda n: n * unit))


def operations(unit: int) -> st.SearchStrategy[str]:
    """One line of a script; ``unit`` is what lengths are a multiple of."""
    size, seed = aligned(unit), st.sampled_from([0, 0, 1, 2, 3])
    parts = st.lists(aligned(unit), min_size=1, max_size=5).map(lambda p: " ".join(map(str, p)))
    reads = st.tuples(st.integers(0, LIMIT), st.integers(0, LIMIT))
    return st.one_of(
        st.builds("pwrite 0 {} {} {}".format, size, seed, size),
        st.builds("write 0 {} {}".format, size, seed),
        st.builds("pwritev 0 {} {} {}".format, size, seed, parts),
        st.builds("ftruncate 0 {}".format, size),
        st.builds("fallocate 0 {} {}".format, size, size.map(lambda n: max(n, unit))),
        st.builds("lseek 0 {} 0".format, size),
        reads.map(lambda r: f"pread 0 {r[0]} {r[1]}"),
        st.builds("preadv 0 {} 0 {}".format, st.integers(0, LIMIT), parts),
        st.just("read 0 10000"),
    )


def check(
    base: Path, keystore: Keystore, driver: Path, file: str, lines: list[str]
) -> tuple[bytes, Path]:
    """Run the same script twice; returns the plain file's content and the encrypted file."""
    shutil.rmtree(base, ignore_errors=True)
    plain = Harness(make_data_directory(base / "plain"), None)
    encrypted = Harness(make_data_directory(base / "encrypted"), keystore)
    body = "".join(f"{line}\n" for line in lines)
    # The content is read again through a second descriptor, in a second process.
    script = f"open 0 {file} rw,creat\n{body}open 1 {file} ro\npread 1 {3 * LIMIT} 0\n"
    assert encrypted.run(driver, script).splitlines() == plain.run(driver, script).splitlines()
    content = (plain.data / file).read_bytes()
    assert (encrypted.data / file).stat().st_size == len(content)
    return content, encrypted.data / file


common = settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@common
@given(lines=st.lists(operations(16), min_size=1, max_size=12))
@pytest.mark.parametrize("file", [RELATION, SEGMENT], ids=["relation", "WAL"])
def test_multiples_of_sixteen_bytes(
    tmp_path: Path, keystore: Keystore, build: Callable[..., Path], file: str, lines: list[str]
) -> None:
    content, stored = check(tmp_path / "run", keystore, build(), file, lines)
    if file == RELATION:
        owner, identity = KeyOwner.tablespace(1663), RelationIdentity(5, 16384)
    else:
        owner, identity = KeyOwner.wal(), WalIdentity(1, 0, 1)
    assert decode(stored, keystore, owner, identity) == content
    assert_no_block_is_plaintext(content, stored.read_bytes())


@common
@given(lines=st.lists(operations(1), min_size=1, max_size=12))
def test_any_number_of_bytes_of_an_ephemeral_file(
    tmp_path: Path, keystore: Keystore, build: Callable[..., Path], lines: list[str]
) -> None:
    content, stored = check(tmp_path / "run", keystore, build(), TEMPORARY, lines)
    assert_no_block_is_plaintext(content, stored.read_bytes())


def test_short_last_units_survive_masks_that_are_zero(
    tmp_path: Path, keystore: Keystore, build: Callable[..., Path]
) -> None:
    """One masked byte in 256 is zero by chance and must not be taken for stored zeros."""
    lines = []
    for i in range(1, 2000):
        # Each file of one byte has an identity, and so a mask, of its own.
        name = f"base/pgsql_tmp/pgsql_tmp77.{i}"
        lines += [f"open 0 {name} rw,creat", f"write 0 1 {i}", "ftruncate 0 3", "pread 0 9 0"]
        lines += ["ftruncate 0 8195", "pread 0 9 8190", "ftruncate 0 2", "pread 0 9 0", "close 0"]
    content, _ = check(tmp_path / "run", keystore, build(), TEMPORARY, lines)
    assert content == b""


def assert_no_block_is_plaintext(content: bytes, stored: bytes) -> None:
    """No AES block that is not zero is stored as it is."""
    for start in range(0, len(content) - 15, 16):
        block = content[start : start + 16]
        assert not any(block) or stored[start : start + 16] != block
