"""System calls that fail or are cut short below the interposer.

An error looks to the program as on a plain file, what was there stays readable, and a second
try completes. A transfer that is cut short is completed by the interposer itself, unless an
error follows.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings, strategies as st

from tde.keystore import Keystore
from tests.interposer.faults import FOREVER, Call, Faults, FaultyHarness, build_faults, name_of
from tests.interposer.harness import RELATION, SEGMENT, TEMPORARY, make_data_directory

BLOCK = 8192
LENGTH = 5 * BLOCK  # Of the file before the fault.
FILES = {"relation": RELATION, "WAL": SEGMENT, "temporary file": TEMPORARY}
every_file = pytest.mark.parametrize("file", FILES.values(), ids=FILES.keys())

ON, OFF = "open 15 faults-on ro", "open 15 faults-off ro"
MARK, MARKED = "lseek 0 424242 0", "lseek: 424242"
READ_ALL = ["pread 0 1000000 0"]
# A block of zeros in the middle, because zeros are stored in a form of their own.
CONTENT = ["ftruncate 0 0", f"pwrite 0 {LENGTH} 1 0", "pwrite 0 8192 0 16384", "lseek 0 0 0"]

# Whole blocks, parts of them, over zeros, at the end and behind it.
READS = ["pread 0 16384 0", "pread 0 100 5", "preadv 0 0 0 8192 8192", "preadv 0 3 0 5 10000"]
READS += ["read 0 8192", "read 0 30", "readv 0 0 0 8192 100"]
WRITES = ["pwrite 0 16384 7 8192", "pwrite 0 32 7 160", "pwrite 0 32 7 16416"]
WRITES += ["pwritev 0 0 7 8192 8192", "pwritev 0 16 7 16 48 8192", "write 0 8192 7", "write 0 48 7"]
WRITES += [f"pwrite 0 8192 7 {LENGTH}", f"pwrite 0 160 7 {LENGTH + 3 * BLOCK + 160}"]
OPERATIONS = {
    Call.READ: READS,
    Call.WRITE: WRITES,
    Call.TRUNCATE: ["ftruncate 0 8192", "ftruncate 0 8224", "ftruncate 0 16416"],
    Call.ALLOCATE: [f"fallocate 0 {LENGTH} 8192", "fallocate 0 0 100000"],
    Call.SYNC: ["sync 0"],
}


@pytest.fixture(scope="session")
def faults_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_faults(tmp_path_factory.mktemp("faults"))


@dataclass(frozen=True)
class Disks:
    """An encrypted and a plain directory, on disks that fail as planned."""

    encrypted: FaultyHarness
    plain: FaultyHarness
    driver: Path

    @classmethod
    def make(cls, base: Path, keystore: Keystore, library: Path, driver: Path) -> Disks:
        shutil.rmtree(base, ignore_errors=True)
        base.mkdir()
        faults = [Faults(library, base / name) for name in ("plan", "plan-of-plain")]
        return cls(
            encrypted=FaultyHarness(make_data_directory(base / "encrypted"), keystore, faults[0]),
            plain=FaultyHarness(make_data_directory(base / "plain"), None, faults[1]),
            driver=driver,
        )

    def run(self, harness: FaultyHarness, file: str, lines: Iterable[str]) -> list[str]:
        """Run a script on one open file, in one process, and return its lines of output.

        One process, because a temporary file can only be read by the start that wrote it.
        """
        script = [OFF, f"open 0 {file} rw,creat", *lines, ""]
        return harness.run(self.driver, "\n".join(script)).splitlines()


@pytest.fixture
def disks(
    tmp_path: Path, keystore: Keystore, faults_library: Path, build: Callable[..., Path]
) -> Disks:
    return Disks.make(tmp_path / "disks", keystore, faults_library, build())


@every_file
@pytest.mark.parametrize("error", [errno.EIO, errno.ENOSPC], ids=name_of)
@pytest.mark.parametrize("call", OPERATIONS, ids=lambda call: call.name.lower())
def test_an_error_looks_as_on_a_plain_file(disks: Disks, file: str, call: Call, error: int) -> None:
    """The same result, the same position, nothing changed, and a second try succeeds."""
    lines: list[str] = []
    for operation in OPERATIONS[call]:
        position, size = "lseek 0 0 1", "lseek 0 0 2"
        lines += [*CONTENT, ON, operation, OFF, position, *READ_ALL, size]
        lines += ["lseek 0 0 0", operation, position, *READ_ALL, size]
    for harness in (disks.plain, disks.encrypted):
        harness.faults.fail(call, f"*/{file}", error, times=FOREVER)
    expected = disks.run(disks.plain, file, lines)
    assert disks.run(disks.encrypted, file, lines) == expected
    assert disks.plain.faults.hits == len(OPERATIONS[call])
    assert disks.encrypted.faults.hits == len(OPERATIONS[call])


# The last part of an AES block, and a block of which only zeros are left, change their form;
# a file that ends within a block is filled up before it grows.
@pytest.mark.parametrize(
    "length",
    [8197, 3 * BLOCK + 4096, 3 * BLOCK + 3, LENGTH - 100, LENGTH - 99, LENGTH - 50, 2 * LENGTH + 3],
)
def test_a_file_of_unchanged_length_reads_as_before(disks: Disks, length: int) -> None:
    cut = f"ftruncate 0 {length}"
    lines = [*CONTENT, f"pwrite 0 4096 0 {3 * BLOCK}", f"ftruncate 0 {LENGTH - 99}"]
    lines += ["pread 0 5 3", ON, cut, OFF, *READ_ALL, "lseek 0 0 2", cut, *READ_ALL, "lseek 0 0 2"]
    for harness in (disks.plain, disks.encrypted):
        harness.faults.fail(Call.TRUNCATE, f"*/{TEMPORARY}", errno.EIO)
    expected = disks.run(disks.plain, TEMPORARY, lines)
    assert "ftruncate: -1 Input/output error" in expected
    assert disks.run(disks.encrypted, TEMPORARY, lines) == expected


@every_file
def test_a_write_whose_block_cannot_be_read(disks: Disks, file: str) -> None:
    """Part of a block needs the rest of it: the write fails and changes nothing."""
    for operation in (
        "pwrite 0 32 7 160",
        "pwritev 0 8176 7 16 32",
        f"pwrite 0 16 7 {LENGTH + 16}",
    ):
        disks.encrypted.faults.clear()
        disks.encrypted.faults.fail(Call.READ, f"*/{file}", errno.EIO, times=FOREVER)
        seen = disks.run(
            disks.encrypted, file, [*CONTENT, *READ_ALL, ON, operation, OFF, *READ_ALL]
        )
        name = operation.split()[0]
        assert f"{name}: -1 Input/output error" in seen
        before = seen.index(f"pread: {LENGTH}")
        assert seen[-2:] == seen[before : before + 2]


@every_file
@pytest.mark.parametrize("error", [errno.EIO, errno.EINTR, errno.EMFILE], ids=name_of)
def test_open_fails_as_on_a_plain_file(disks: Disks, file: str, error: int) -> None:
    """What is opened after that is not taken for the file that could not be opened."""
    lines = [*CONTENT, ON, f"open 1 {file} rw", "pread 1 9 0"]
    lines += ["open 1 postgresql.conf rw,creat", "pwrite 1 100 3 0", "pread 1 100 0"]
    lines += [f"open 2 {file} rw", "pread 2 9 0"]
    for harness in (disks.plain, disks.encrypted):
        harness.faults.fail(Call.OPEN, file, error)
    expected = disks.run(disks.plain, file, lines)
    assert f"open: -1 {os.strerror(error)}" in expected
    assert disks.run(disks.encrypted, file, lines) == expected
    names = [harness.data / "postgresql.conf" for harness in (disks.plain, disks.encrypted)]
    assert names[0].read_bytes() == names[1].read_bytes()


@every_file
@pytest.mark.parametrize("error", [errno.ENOSYS, errno.EPERM, errno.EINVAL], ids=name_of)
def test_files_are_opened_where_the_kernel_cannot_tell_of_links(
    disks: Disks, file: str, error: int
) -> None:
    """Kernels before 5.6 have no openat2, and seccomp profiles of their time forbid it."""
    lines = [*CONTENT, ON, f"open 1 {file} rw", "pread 1 9 0"]
    disks.encrypted.faults.fail(Call.OPEN, file, error)
    assert disks.run(disks.encrypted, file, lines) == disks.run(disks.plain, file, lines)
    assert disks.encrypted.faults.hits == 1


@every_file
@pytest.mark.parametrize("at_most", [1, 15, 16, 100, 4096, 8191, 8192, 8193, 20000])
def test_short_writes_are_completed(disks: Disks, file: str, at_most: int) -> None:
    """The interposer writes on, so the program sees neither the cut nor part of a block."""
    lines: list[str] = []
    for operation in WRITES:
        lines += [*CONTENT, ON, operation, OFF, "lseek 0 0 1", *READ_ALL]
    disks.encrypted.faults.shorten(Call.WRITE, f"*/{file}", at_most, times=FOREVER)
    assert disks.run(disks.encrypted, file, lines) == disks.run(disks.plain, file, lines)
    assert disks.encrypted.faults.hits > len(WRITES) or at_most > BLOCK


@every_file
def test_memory_that_is_not_aligned_gets_no_ciphertext(disks: Disks, file: str) -> None:
    """The kernel may tear AES blocks on their way into it: docs/format.md, section 4."""
    reads = [*READS, "pread 0 1000000 8", "preadv 0 8 0 8184 8192 300000 16384 0 9"]
    reads += ["preadv2 0 8192 0 8192 8192 8192", "readv 0 0 0 0 8192 8192 8192"]
    lines = [*CONTENT, "pwrite 0 300032 2 40960", ON]
    for shift in (1, 8, 15, 16, 32, 48, 0):
        lines.append(f"shift {shift}")
        for operation in reads:
            lines += ["lseek 0 0 0", operation, "lseek 0 0 1", "lseek 0 16384 0", operation]
    disks.encrypted.faults.fail(Call.UNALIGNED_READ, f"*/{file}", errno.EFAULT, times=FOREVER)
    expected = disks.run(disks.plain, file, lines)
    assert disks.run(disks.encrypted, file, lines) == expected
    assert disks.encrypted.faults.hits == 0


@every_file
@pytest.mark.parametrize("shift", [0, 8])
@pytest.mark.parametrize("at_most", [1, 15, 16, 100, 4096, 8191, 8192, 8193, 20000])
def test_short_reads_return_no_other_bytes(
    disks: Disks, file: str, at_most: int, shift: int
) -> None:
    """A read may return less than asked, as the system call did, but never nothing."""
    disks.encrypted.faults.shorten(Call.READ, f"*/{file}", at_most, times=FOREVER)
    lines = [line for operation in READS for line in (ON, operation, OFF, "lseek 0 0 0")]
    seen = disks.run(disks.encrypted, file, [*CONTENT, f"shift {shift}", *lines])
    results = [line for line in seen if line.startswith(("pread", "read"))]
    shorter = [
        f"pread 0 {line.split(': ')[1]} {start}"
        for line, start in zip(results, [0, 5, 0, 3, 0, 0, 0], strict=True)
    ]
    expected = disks.run(disks.plain, file, [*CONTENT, *shorter])
    assert digests(seen) == digests(expected)
    assert len(digests(seen)) == len(READS)  # A line only follows a read of some bytes.


def digests(output: list[str]) -> list[str]:
    return [line for line in output if line.startswith("  ")]


@every_file
def test_interrupted_calls(disks: Disks, file: str) -> None:
    """EINTR reaches the program as EINTR or not at all; then everything is done."""
    for call, operations in ((Call.READ, READS), (Call.WRITE, WRITES)):
        disks.encrypted.faults.clear()
        disks.encrypted.faults.fail(call, f"*/{file}", errno.EINTR, times=FOREVER, every=2)
        for operation in operations:
            script = [*CONTENT, ON, operation, operation, OFF, *READ_ALL]
            seen = disks.run(disks.encrypted, file, script)
            interrupted = f"{operation.split()[0]}: -1 Interrupted system call"
            assert seen.count(interrupted) < 2, operation
            once = [*CONTENT, ON, operation, OFF, *READ_ALL]
            twice = disks.run(disks.plain, file, once if interrupted in seen else script)
            assert [line for line in seen if line != interrupted] == twice, operation
        assert disks.encrypted.faults.hits >= len(operations)


@dataclass(frozen=True)
class FailedWrite:
    """A write of which one system call is cut short, and the next one fails."""

    offset: int
    length: int
    seed: int
    passed: int  # System calls that succeed before.
    cut: int  # Bytes of the one that is cut.
    error: int

    @property
    def end(self) -> int:
        return self.offset + self.length

    @property
    def operation(self) -> str:
        return f"pwrite 0 {self.length} {self.seed} {self.offset}"


def failed_writes(unit: int) -> st.SearchStrategy[FailedWrite]:
    near = st.builds(
        lambda block, delta: max(0, block * BLOCK + delta * unit),
        st.integers(0, 7),
        st.integers(-3, 3),
    )
    size = st.one_of(near, st.integers(1, 7 * BLOCK // unit).map(lambda n: n * unit))
    return st.builds(
        FailedWrite,
        offset=size,
        length=size.map(lambda n: max(n, unit)),
        seed=st.sampled_from([0, 7, 8]),
        passed=st.integers(0, 2),
        cut=st.one_of(st.integers(1, 40), st.integers(1, 3 * BLOCK)),
        error=st.sampled_from([errno.EIO, errno.ENOSPC]),
    )


def check_failed_write(disks: Disks, file: str, write: FailedWrite) -> None:
    """What was reported is new, what is outside of the range is as before."""
    start = [*CONTENT, MARK, ON, write.operation, OFF, MARK]
    seen = fail_write(disks, file, write, [*start, "lseek 0 0 2"])
    reported, size = reported_bytes(seen[1][1], write), int(seen[2][0].removeprefix("lseek: "))
    assert size <= max(write.end, LENGTH)

    outside = [f"pread 0 {write.offset} 0", f"pread 0 1000000 {max(write.end, LENGTH)}"]
    if write.end < LENGTH:
        outside.append(f"pread 0 {LENGTH - write.end} {write.end}")
    inside = [MARK, f"pread 0 {reported} {write.offset}", write.operation, *READ_ALL]
    seen = fail_write(disks, file, write, [*start, *outside, MARK, *inside])
    # The plain file has the same gap in front of a write behind its end.
    start = [*CONTENT, MARK, f"ftruncate 0 {max(min(write.offset, size), LENGTH)}", MARK]
    expected = sections(
        disks.run(disks.plain, file, [*start, *outside, MARK, write.operation, *inside])
    )
    assert seen[2] == expected[2], "bytes outside of the range have changed"
    assert seen[4] == expected[4], "bytes that were reported, or the second try"


def fail_write(disks: Disks, file: str, write: FailedWrite, script: list[str]) -> list[list[str]]:
    faults = disks.encrypted.faults
    faults.clear()
    faults.shorten(Call.WRITE, f"*/{file}", write.cut, skip=write.passed)
    # Once: what the interposer has to put back, it can.
    faults.fail(Call.WRITE, f"*/{file}", write.error, skip=write.passed + 1)
    return sections(disks.run(disks.encrypted, file, script))


def sections(output: list[str]) -> list[list[str]]:
    """Split the output of a script at its marks."""
    parts: list[list[str]] = [[]]
    for line in output:
        if line == MARKED:
            parts.append([])
        else:
            parts[-1].append(line)
    return parts


def reported_bytes(result: str, write: FailedWrite) -> int:
    """Return what the write reported; an error is the one that was planned."""
    result = result.removeprefix("pwrite: ")
    if result.startswith("-1"):
        assert result == f"-1 {os.strerror(write.error)}"
        return 0
    return int(result)


common = settings(
    max_examples=30,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@common
@given(write=failed_writes(16))
# Part of a block of zeros: all of it gets another form.
@example(write=FailedWrite(16416, 32, 7, passed=0, cut=100, error=errno.EIO))
@pytest.mark.parametrize("file", [RELATION, SEGMENT], ids=["relation", "WAL"])
def test_failed_writes(
    tmp_path: Path,
    keystore: Keystore,
    faults_library: Path,
    build: Callable[..., Path],
    file: str,
    write: FailedWrite,
) -> None:
    disks = Disks.make(tmp_path / "disks", keystore, faults_library, build())
    check_failed_write(disks, file, write)


@common
@given(write=failed_writes(1))
# Bytes 0 to 4 share an AES block with the first byte of the range.
@example(write=FailedWrite(5, 40, 7, passed=0, cut=3, error=errno.EIO))
def test_failed_writes_of_any_number_of_bytes(
    tmp_path: Path,
    keystore: Keystore,
    faults_library: Path,
    build: Callable[..., Path],
    write: FailedWrite,
) -> None:
    disks = Disks.make(tmp_path / "disks", keystore, faults_library, build())
    check_failed_write(disks, TEMPORARY, write)
