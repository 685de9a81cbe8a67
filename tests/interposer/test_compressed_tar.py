"""pg_wal.tar.gz, written as pg_basebackup writes it, and in ways that nothing understands."""

from __future__ import annotations

import gzip
import io
import random
import re
import tarfile
import zlib
from pathlib import Path

import pytest

from tde.keystore import Keystore
from tests.interposer.compressed import SEGMENT_NAME, build_receiver, stored_form
from tests.interposer.harness import Harness, make_data_directory
from tests.interposer.test_tar import header

TAR = "pg_wal.tar.gz"
BLOCK = 8192
MARK = b"canary-in-a-compressed-tar-file!"
HISTORY = b"1\t0/3000000\tno recovery target specified\n"
Step = tuple[str, bytes]


@pytest.fixture(scope="session")
def receiver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("tar_receiver")
    return build_receiver(directory, "pg_basebackup", "tar_receiver.c")


@pytest.fixture
def harness(tmp_path: Path, keystore: Keystore) -> Harness:
    return Harness(make_data_directory(tmp_path / "data"), keystore)


def run(harness: Harness, receiver: Path, *steps: Step) -> tuple[str, str]:
    """Return what the program and what the interposer said."""
    (harness.data / "bytes").write_bytes(b"".join(data for _, data in steps) + b"\0")
    arguments = [TAR, "bytes", *(f"{what}:{len(data)}" for what, data in steps)]
    done = harness.execute(receiver, arguments, check=False)
    return done.stdout, done.stderr


def pieces(data: bytes) -> list[Step]:
    """Cut as the server's messages might be: nothing ends where a block does."""
    sizes = [1, 7, 16, 100, 3, 9000, 40, 30001]
    steps, done = [], 0
    while done < len(data):
        size = sizes[len(steps) % len(sizes)]
        steps.append(("write", data[done : done + size]))
        done += size
    return steps


def member(name: str, data: bytes, final: str = "") -> list[Step]:
    padding = bytes(-len(data) % 512)
    return [
        ("header", header(name)),
        *pieces(data + padding),
        ("finish", b""),
        ("again", header(final or name, len(data))),
    ]


def segment(seed: int) -> bytes:
    """Text, noise, a block of zeros, and one that begins with zeros."""
    noise = random.Random(seed).randbytes(5 * BLOCK)
    return MARK * 1024 + noise + bytes(3 * BLOCK) + MARK * 20 + bytes(3 * BLOCK - 20 * len(MARK))


def test_members_are_stored_as_the_files_would_be(harness: Harness, receiver: Path) -> None:
    data = segment(1)
    other = f"{SEGMENT_NAME[:-1]}B"
    steps = [
        *member("00000001.history.tmp", HISTORY, final="00000001.history"),
        *member(f"{SEGMENT_NAME}.partial", data, final=SEGMENT_NAME),
        *member(f"archive_status/{SEGMENT_NAME}.done", b""),
        *member(other, segment(2)),
    ]
    assert run(harness, receiver, *steps, ("write", bytes(1024)), ("finish", b"")) == ("", "")

    whole = gzip.decompress((harness.data / TAR).read_bytes())
    assert MARK not in whole
    assert harness.keystore is not None
    with tarfile.open(fileobj=io.BytesIO(whole)) as tar:
        status = f"archive_status/{SEGMENT_NAME}.done"
        assert tar.getnames() == ["00000001.history", SEGMENT_NAME, status, other]
        content = {name: tar.extractfile(name).read() for name in tar.getnames()}  # type: ignore[union-attr]
    assert content["00000001.history"] == HISTORY
    assert content[status] == b""
    assert content[SEGMENT_NAME] == stored_form(harness.keystore, data)
    assert len(content[other]) == len(data)
    assert content[other][:BLOCK] != content[SEGMENT_NAME][:BLOCK]


SECRET = MARK * 4096
REFUSED: dict[str, list[Step]] = {
    "no header": [("write", SECRET)],
    "a header that is none": [("header", SECRET[:512])],
    "another kind of file": [("header", header("base/5/16384"))],
    "a header of another length": [("header", header(SEGMENT_NAME) + SECRET[:512])],
    "bytes in an empty member": [
        ("header", header(f"archive_status/{SEGMENT_NAME}.done")),
        ("write", SECRET),
    ],
    "another name at the end": member(SEGMENT_NAME, SECRET, final="00000001.history"),
    "half a block of WAL": member(SEGMENT_NAME, SECRET[:1000]),
    "bytes behind a member": [*member(SEGMENT_NAME, SECRET), ("write", SECRET)],
    "bytes behind the end": [
        *member(SEGMENT_NAME, SECRET),
        ("write", bytes(1024)),
        ("finish", b""),
        ("header", header(SEGMENT_NAME)),
    ],
    "bytes past zlib": [("header", header(SEGMENT_NAME)), ("sneak", SECRET)],
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_not_understood_is_not_written(harness: Harness, receiver: Path, what: str) -> None:
    output, message = run(harness, receiver, *REFUSED[what])
    assert re.fullmatch("[a-z]+: Operation not (permitted|supported)\n", output)
    assert "refused to write" in message
    stored = (harness.data / TAR).read_bytes()
    assert MARK not in stored
    # All gzip streams of it, also one that does not end.
    found = b""
    while stored:
        machine = zlib.decompressobj(31)
        found += machine.decompress(stored)
        stored = machine.unused_data
    assert MARK not in found
