"""pg_wal.tar, written as pg_basebackup writes it, and in ways that nothing understands."""

from __future__ import annotations

import tarfile
from dataclasses import dataclass
from errno import ENOSPC
from pathlib import Path

import pytest

from tde import WalIdentity
from tde.keystore import KeyOwner
from tests.interposer.faults import FOREVER, Call, Faults, FaultyHarness, build_faults
from tests.interposer.harness import SEGMENT, Harness, make_data_directory
from tests.interposer.stored import decode

TAR = "pg_wal.tar"
NAME = Path(SEGMENT).name
SIZE = 1 << 20
BLOCK = 512


def header(name: str, size: int = 0, kind: bytes = b"0", prefix: bytes = b"") -> bytes:
    """Return a member's header as tarCreateHeader of PostgreSQL makes it."""
    block = bytearray(BLOCK)
    fields = {0: name.encode(), 156: kind, 257: b"ustar\x0000", 265: b"postgres", 345: prefix}
    numbers = {100: (0o600, 8), 108: (0, 8), 116: (0, 8), 124: (size, 12), 136: (1700000000, 12)}
    for at, (value, length) in numbers.items():
        fields[at] = b"%0*o " % (length - 1, value)
    for at, text in fields.items():
        block[at : at + len(text)] = text
    block[148:156] = b"%07o " % (sum(block) + 8 * ord(" "))
    return bytes(block)


@dataclass
class TarScript:
    """Commands of the driver that write a tar file; headers come from a file beside it.

    Slot 0 is the tar file, slot 1 the headers.
    """

    headers: bytes = b""
    text: str = f"open 0 {TAR} wo,creat\nopen 1 headers ro\n"

    def block(self, content: bytes, offset: int) -> TarScript:
        self.text += f"copy 1 0 {len(self.headers)} {offset} {len(content)}\n"
        self.headers += content
        return self

    def do(self, *commands: str) -> TarScript:
        self.text += "".join(f"{command}\n" for command in commands)
        return self

    def member(self, name: str, offset: int, size: int, *writes: str, final: str = "") -> int:
        """Write a member that begins at OFFSET; return the offset behind it."""
        self.block(header(name), offset)
        self.do(*writes)
        self.block(header(final or name, size), offset)
        return offset + BLOCK + -(-size // BLOCK) * BLOCK

    def execute(self, harness: Harness, driver: Path) -> tuple[list[str], str]:
        """Run it; return the results behind those of the two opens, and the messages."""
        (harness.data / "headers").write_bytes(self.headers)
        (harness.data / "script.txt").write_text(self.text)
        run = harness.execute(driver, [str(harness.data / "script.txt")])
        return run.stdout.splitlines()[2:], run.stderr


def padding(start: int, size: int = SIZE) -> list[str]:
    return [f"pwrite 0 8192 0 {start + at}" for at in range(0, size, 8192)]


# As the walreceiver writes: at odd offsets, across blocks, into what was written before.
STREAM = [(8192, 1, 0), (100, 2, 8192), (8, 3, 8292), (40000, 4, 8300), (5, 5, 48300)]


def test_members_are_stored_as_the_files_would_be(twins, build):
    driver = build(program="pg_basebackup")
    script = TarScript()
    start = BLOCK
    writes = [*padding(start), *(f"pwrite 0 {n} {seed} {start + at}" for n, seed, at in STREAM)]
    at = script.member(f"{NAME}.partial", 0, SIZE, *writes, final=NAME)
    at = script.member("archive_status/" + NAME + ".done", at, 0)
    history = at + BLOCK
    at = script.member(
        "00000002.history.tmp",
        at,
        41,
        f"pwrite 0 41 6 {history}",
        f"pwrite 0 471 0 {history + 41}",
        final="00000002.history",
    )
    second = "00000002000000000000000A"
    start = at + BLOCK
    at = script.member(second, at, SIZE, *padding(start), f"pwritev 0 {start + 3} 7 5000 5000")
    script.block(bytes(1024), at).do("size 0", "sync 0", "access 0", "close 0")
    results = [script.execute(harness, driver)[0] for harness in (twins.plain, twins.encrypted)]
    assert results[0] == results[1]

    with (
        tarfile.open(twins.plain.data / TAR) as plain,
        tarfile.open(twins.encrypted.data / TAR) as stored,
    ):
        assert [m.get_info() for m in stored] == [m.get_info() for m in plain]
        extracted = {}
        for member in stored:
            file = twins.encrypted.data / f"extracted-{Path(member.name).name}"
            file.write_bytes(stored.extractfile(member).read())
            extracted[member.name] = file
        content = {m.name: plain.extractfile(m).read() for m in plain}
    assert extracted["00000002.history"].read_bytes() == content["00000002.history"]
    keystore, owner = twins.encrypted.keystore, KeyOwner.wal()
    for name, identity in ((NAME, WalIdentity(1, 0, 1)), (second, WalIdentity(2, 0, 10))):
        assert extracted[name].read_bytes()[:4096] != content[name][:4096]
        assert decode(extracted[name], keystore, owner, identity) == content[name]

    # Written to the file itself, the segment has the same bytes.
    file = [f"pwrite 0 {n} {seed} {at}" for n, seed, at in STREAM]
    commands = [f"open 0 {SEGMENT} rw,creat", *padding(0), *file]
    twins.encrypted.run(driver, "".join(f"{command}\n" for command in commands))
    assert (twins.encrypted.data / SEGMENT).read_bytes() == extracted[NAME].read_bytes()


def test_a_member_that_is_given_up_is_cut_off(twins, build):
    """As tar_close of PostgreSQL does with CLOSE_UNLINK."""
    script = TarScript()
    at = script.member(NAME, 0, 8192, f"pwrite 0 8192 1 {BLOCK}")
    script.block(header("00000001000000000000000B"), at)
    script.do(f"pwrite 0 8192 2 {at + BLOCK}", f"ftruncate 0 {at}")
    name = "00000001000000000000000C"
    script.member(name, at, 8192, f"pwrite 0 8192 3 {at + BLOCK}")
    results = [
        script.execute(harness, build(program="pg_basebackup"))[0]
        for harness in (twins.plain, twins.encrypted)
    ]
    assert results[0] == results[1]
    with tarfile.open(twins.encrypted.data / TAR) as stored:
        assert stored.getnames() == [NAME, name]
        file = twins.encrypted.data / "extracted"
        file.write_bytes(stored.extractfile(name).read())
    with tarfile.open(twins.plain.data / TAR) as plain:
        content = plain.extractfile(name).read()
    identity = WalIdentity(1, 0, 12)
    assert decode(file, twins.encrypted.keystore, KeyOwner.wal(), identity) == content


ON, OFF = "open 15 faults-on ro", "open 15 faults-off ro"


@pytest.mark.parametrize("partly", [False, True], ids=["at once", "after 100 bytes"])
def test_a_write_that_failed_can_be_repeated(tmp_path, keystore, build, partly):
    """A disk that is full for a moment, at the headers and at whole and partial blocks."""
    faults = Faults(build_faults(tmp_path), tmp_path / "plan")
    harness = FaultyHarness(make_data_directory(tmp_path / "data"), keystore, faults)
    driver = build(program="pg_basebackup")
    steps = [
        (header(NAME), 0),
        f"pwrite 0 16384 1 {BLOCK}",
        f"pwrite 0 8008 2 {BLOCK + 1000}",
        (header(NAME, 16384), 0),
        (header("00000002.history"), BLOCK + 16384),
    ]
    contents = []
    for failing in (False, True):
        script = TarScript().do(OFF)
        for step in steps:
            for switch in (ON, OFF) if failing else (OFF,):
                script.do(switch)
                if isinstance(step, str):
                    script.do(step)
                else:
                    script.block(*step)
        if partly:
            faults.shorten(Call.WRITE, f"*/{TAR}", 100, times=FOREVER, every=2)
        faults.fail(
            Call.WRITE, f"*/{TAR}", ENOSPC, skip=int(partly), times=FOREVER, every=1 + partly
        )
        results, _ = script.execute(harness, driver)
        contents.append((harness.data / TAR).read_bytes())
        (harness.data / TAR).unlink()
        if failing:
            failures = [line for line in results if line.endswith("-1 No space left on device")]
            assert len(failures) == len(steps)
            assert faults.hits >= len(steps)
        faults.clear()
    assert contents[0] == contents[1]


def begun(name: str = NAME) -> TarScript:
    return TarScript().block(header(name), 0)


def written() -> TarScript:
    return begun().do(f"pwrite 0 8192 1 {BLOCK}")


def ended() -> TarScript:
    return written().block(header(NAME, 8192), 0).block(bytes(1024), BLOCK + 8192)


DAMAGED = bytearray(header(NAME))
DAMAGED[10] ^= 1

REFUSED = {
    "WAL without a header": TarScript().do("pwrite 0 8192 1 0"),
    "a short header": TarScript().do("pwrite 0 100 1 0"),
    "a damaged header": TarScript().block(bytes(DAMAGED), 0),
    "the size too early": TarScript().block(header(NAME, 8192), 0),
    "an unknown name": TarScript().block(header("base/5/16384"), 0),
    "a name that only begins as a segment": TarScript().block(header(NAME + "0"), 0),
    "a name with a prefix": TarScript().block(header(NAME, prefix=b"x"), 0),
    "a link": TarScript().block(header(NAME, kind=b"2"), 0),
    "bytes in a file without any": begun("archive_status/1.done").do(f"pwrite 0 10 1 {BLOCK}"),
    "a gap": begun().do(f"pwrite 0 8192 1 {BLOCK + 1}"),
    "into the header": begun().do("pwrite 0 8192 1 8"),
    "into the header of a plain file": begun("00000002.history").do("pwrite 0 8 1 8"),
    "the header with more behind it": written().block(header(NAME, 8192) + bytes(8), 0),
    "the header of another segment": written().block(header("00000001000000000000000B", 8192), 0),
    "another size": written().block(header(NAME, 16384), 0),
    "part of a block": begun().do(f"pwrite 0 512 1 {BLOCK}").block(header(NAME, 512), 0),
    "behind the end": ended().block(header(NAME), BLOCK + 8192 + 1024),
    "a complete member": written().block(header(NAME, 8192), 0).do(f"pwrite 0 8192 1 {BLOCK}"),
    "a cut segment": written().do(f"ftruncate 0 {BLOCK}"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_not_understood_is_not_written(twins, build, what):
    """The last command of each script is refused and leaves the file as it was."""
    script = REFUSED[what]
    driver = build(program="pg_basebackup")
    *before, _ = script.text.splitlines(keepends=True)
    TarScript(script.headers, "".join(before)).execute(twins.encrypted, driver)
    content = (twins.encrypted.data / TAR).read_bytes()
    (twins.encrypted.data / TAR).unlink()
    results, messages = script.execute(twins.encrypted, driver)
    if "more behind it" in what:  # The header itself is as it must be.
        content = header(NAME, 8192) + content[BLOCK:]
        assert results[-1].endswith(": 512")
    else:
        assert results[-1].endswith("-1 Operation not supported")
    assert f"refused to write {twins.encrypted.data / TAR}: " in messages
    assert "--wal-method=fetch" in messages
    assert (twins.encrypted.data / TAR).read_bytes() == content


@pytest.mark.parametrize(
    "command",
    ["dup 0 2", "dup 0 2 fcntl", "fallocatelinux 0 0 99999", "appending 0"],
)
def test_calls_that_would_lose_track_of_the_members(twins, build, command):
    results, _ = written().do(command).execute(twins.encrypted, build(program="pg_basebackup"))
    assert results[-1].endswith("-1 Operation not supported")


def test_nothing_is_written_past_the_compressor(twins, build):
    """What zlib has not put out may be WAL, from a program that zlib is a part of."""
    path = twins.encrypted.data / "script.txt"
    path.write_text(
        "open 0 pg_wal.tar.gz wo,creat\nwrite 0 100 1\npwrite 0 100 1 0\nwritev 0 0 1 9\n"
    )
    run = twins.encrypted.execute(build(program="pg_basebackup"), [str(path)])
    refused = [line for line in run.stdout.splitlines() if "-1 Operation not permitted" in line]
    assert len(refused) == 3
    assert "would not be encrypted" in run.stderr
    assert (twins.encrypted.data / "pg_wal.tar.gz").read_bytes() == b""


def test_a_tar_file_that_is_there_is_not_continued(twins, build):
    """Nothing is known of its members; pg_basebackup never does it."""
    driver = build(program="pg_basebackup")
    written().execute(twins.encrypted, driver)
    script = TarScript().do(f"pwrite 0 8192 1 {BLOCK}", "pwrite 0 100 1 0", "read 0 100")
    results, _ = script.execute(twins.encrypted, driver)
    assert results[:2] == ["pwrite: -1 Operation not supported"] * 2
    assert results[2] == "read: -1 Bad file descriptor"
    with (twins.encrypted.data / TAR).open("ab") as file:
        file.write(b"more")
    size = (twins.encrypted.data / TAR).stat().st_size
    results, _ = TarScript().block(header(NAME), size).execute(twins.encrypted, driver)
    assert results == ["copy: -1 Operation not supported"]
