"""Random operations against a plain file as the model: output, content and length agree."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from block_model import assert_no_block_is_plaintext, check, check_stored, common, operations
from harness import RELATION, SEGMENT, TEMPORARY
from hypothesis import given, strategies as st

from tde.keystore import Keystore


@common
@given(lines=st.lists(operations(16), min_size=1, max_size=12))
@pytest.mark.parametrize("file", [RELATION, SEGMENT], ids=["relation", "WAL"])
def test_multiples_of_sixteen_bytes(
    tmp_path: Path, keystore: Keystore, build: Callable[..., Path], file: str, lines: list[str]
) -> None:
    content, stored = check(tmp_path / "run", keystore, build(), file, lines)
    check_stored(stored, keystore, file, content)


@common
@given(lines=st.lists(operations(1), min_size=1, max_size=12))
def test_any_number_of_bytes_of_an_ephemeral_file(
    tmp_path: Path, keystore: Keystore, build: Callable[..., Path], lines: list[str]
) -> None:
    content, stored = check(tmp_path / "run", keystore, build(), TEMPORARY, lines)
    assert_no_block_is_plaintext(content, stored.read_bytes())


@pytest.mark.parametrize("file", [RELATION, SEGMENT, TEMPORARY])
def test_a_vector_of_blocks_ends_where_the_file_does(
    tmp_path: Path, keystore: Keystore, build: Callable[..., Path], file: str
) -> None:
    """Also in the middle of a unit, whichever part of the vector that falls into."""
    vectors = ["8192 8192", "0 8192 8192", "8192 0 0 16384", "16384 8192", "8192 8192 8192"]
    reads = [f"preadv 0 {at} 0 {parts}" for at in (0, 8192, 16384) for parts in vectors]
    lines = []
    for size in (16, 8192, 8208, 16368, 16384, 16400):
        lines += ["ftruncate 0 0", f"pwrite 0 {size} {size} 0", *reads]
    check(tmp_path / "run", keystore, build(), file, lines)


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
