"""The model of block I/O: random operations, done to an encrypted file and to a plain one."""

from __future__ import annotations

import shutil
from pathlib import Path

from hypothesis import HealthCheck, settings, strategies as st

from tde import RelationIdentity, WalIdentity
from tde.keystore import KeyOwner, Keystore
from tests.interposer.harness import RELATION, SEGMENT, TEMPORARY, Harness, make_data_directory
from tests.interposer.stored import decode

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
        st.sampled_from([0, 1, 8, 15]).map("shift {}".format),
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


def check_stored(stored: Path, keystore: Keystore, file: str, content: bytes) -> None:
    """What is stored means ``content``, read without the interposer, and shows none of it."""
    if file == RELATION:
        owner = KeyOwner.tablespace(1663)
        assert decode(stored, keystore, owner, RelationIdentity(5, 16384)) == content
    elif file == SEGMENT:
        assert decode(stored, keystore, KeyOwner.wal(), WalIdentity(1, 0, 1)) == content
    else:
        assert file == TEMPORARY, "nobody else has the key of this start"
    assert_no_block_is_plaintext(content, stored.read_bytes())


def assert_no_block_is_plaintext(content: bytes, stored: bytes) -> None:
    """No AES block that is not zero is stored as it is."""
    for start in range(0, len(content) - 15, 16):
        block = content[start : start + 16]
        assert not any(block) or stored[start : start + 16] != block
