"""Every libc entry that reads, writes or copies descriptors, in every way to run it."""

from __future__ import annotations

import resource
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tde import RelationIdentity, WalIdentity
from tde.keystore import KeyOwner
from tests.interposer.harness import (
    AES128_TABLESPACE,
    PLAIN,
    PLAINTEXT_TABLESPACE,
    RELATION,
    SEGMENT,
    TEMPORARY,
    UNDER_ASAN,
    build_program,
)
from tests.interposer.stored import decode

FILES = {
    "relation": RELATION,
    "fsm": RELATION + "_fsm",
    "second segment": RELATION + ".1",
    "temporary relation": "base/5/t3_16385",
    "global": "global/1262",
    "tablespace": f"pg_tblspc/{AES128_TABLESPACE}/PG_15_202209061/5/16390",
    "plaintext tablespace": f"pg_tblspc/{PLAINTEXT_TABLESPACE}/PG_15_202209061/5/16390",
    "WAL": SEGMENT,
    "partial WAL": SEGMENT + ".partial",
    "temporary file": TEMPORARY,
    "configuration": "postgresql.auto.conf",
}

# Whole blocks, zeros, parts of blocks, the end of the file and behind it.
SCRIPT = """
open 0 {file} rw,creat,excl
pwrite 0 32768 1 0
pwrite 0 8192 0 8192
pwrite64 0 8192 2 40960
pread 0 65536 0
pread64 0 8192 8192
pread 0 100 5
pread 0 16 8176
pread 0 20000 8000
pwrite 0 100 3 10
pwrite 0 16 4 8192
pwrite 0 8192 0 0
pwrite 0 20000 5 12345
pread 0 65536 0
lseek 0 0 0
read 0 8192
read 0 1000
write 0 8192 6
write 0 16 7
read 0 100000
lseek 0 0 1
pwritev 0 0 8 8192 8192 16384
pwritev64 0 8192 9 100 8092 1 8191
pwritev2 0 65536 10 3 5 8 8192 7 16361
preadv 0 0 0 8192 8192 16384
preadv64 0 16 0 1 2 3 4 5000 10000
preadv2 0 0 0 8192 100000
pwritev64v2 0 81920 13 100 8092
preadv64v2 0 81900 0 7 8192
lseek 0 8192 0
pwritev2 0 -1 14 20 8172
preadv2 0 -1 0 77 99
lseek 0 0 1
lseek 0 4096 0
writev 0 0 11 16 8192 32
lseek 0 4096 0
readv 0 0 0 5000 6000
pread 0 200000 0
ftruncate 0 16384
pread 0 200000 0
ftruncate 0 24576
fallocate 0 24576 65536
pread 0 200000 0
advise 0
syncrange 0
syncdata 0
sync 0
fallocate64 0 90112 8192
fallocatelinux 0 98304 4096
fallocatekeep 0 102400 65536
size 0
ftruncate64 0 100000
ftruncate64 0 98304
pread 0 200000 0
pread 0 0 0
pread 0 16 1000000
pwrite 0 0 0 0
close 0
pread 0 16 0
open 1 {file} ro
pwrite 1 16 1 0
pread 1 200000 0
close 1
open 1 {file} wo
access 1
pread 1 16 0
pwrite 1 100 12 200
close 1
truncate {file} 40960
truncate64 {file} 40000
open 2 {file} ro
pread 2 200000 0
close 2
"""


@pytest.mark.parametrize("file", FILES.values(), ids=FILES.keys())
def test_reads_and_writes_look_like_those_of_a_plain_file(twins, driver, file):
    twins.run(driver, SCRIPT.format(file=file))


@pytest.mark.parametrize(
    "variant",
    [
        *("open64", "openat", "openat64", "directory", "creat", "creat64"),
        *("nomode", "nomode64", "nomodeat", "nomodeat64"),
    ],
)
def test_every_way_to_open_encrypts(twins, driver, variant):
    prepare = f"open 0 {RELATION} rw,creat\nclose 0\n"
    twins.run(
        driver,
        prepare + f"open 0 {RELATION} rw,creat {variant}\npwrite 0 8192 5 0\nclose 0\n"
        f"open 0 {RELATION} ro\npread 0 8192 0\n",
    )
    assert_only_decoded_equal(twins)


def assert_only_decoded_equal(twins) -> None:
    """The stored bytes differ from the plain file; decoded they are equal."""
    encrypted = twins.encrypted.data / RELATION
    plain = (twins.plain.data / RELATION).read_bytes()
    assert any(plain), "a file of zeros would prove nothing"
    assert encrypted.read_bytes() != plain
    identity = RelationIdentity(database=5, relfilenumber=16384)
    owner = KeyOwner.tablespace(1663)
    assert decode(encrypted, twins.encrypted.keystore, owner, identity) == plain


@pytest.mark.parametrize("how", ["dup", "dup2 100", "dup3 101", "fcntl 102", "cloexec 103"])
def test_copies_of_a_descriptor_encrypt(twins, driver, how):
    twins.run(
        driver,
        f"open 0 {RELATION} rw,creat\ndup 0 1 {how}\nclose 0\n"
        "write 1 8192 1\nwrite 1 112 2\nlseek 1 0 0\nread 1 20000\nclose 1\n"
        f"open 0 {RELATION} rw\npwrite 0 8080 3 8304\n",
    )
    assert_only_decoded_equal(twins)


@pytest.mark.parametrize("close", ["close", "closerange", "closefrom"])
def test_a_descriptor_that_is_used_again_is_not_encrypted(twins, driver, close):
    twins.run(
        driver,
        f"open 0 {RELATION} rw,creat\n{close} 0\nopen 0 {PLAIN} rw,creat\npwrite 0 100 1 0\n"
        # The end for reading gets the number of the relation; nobody is told of it.
        f"open 1 {RELATION} rw\n{close} 1\npipe 1 2\nwrite 2 100 3\nread 1 100\n",
    )
    plain = (twins.plain.data / PLAIN).read_bytes()
    assert (twins.encrypted.data / PLAIN).read_bytes() == plain


def test_a_descriptor_that_is_only_marked_for_closing_encrypts(twins, driver):
    twins.run(driver, f"open 0 {RELATION} rw,creat\ncloselater 0\nwrite 0 8192 1\nread 0 1\n")
    assert_only_decoded_equal(twins)


def test_a_child_goes_on_with_open_files(twins, driver):
    """Descriptors, copies and positions survive a fork."""
    if UNDER_ASAN and driver.parent.name == "thread":
        pytest.skip("LeakSanitizer says itself that it errs after a fork by a thread")
    twins.run(
        driver,
        f"open 0 {RELATION} rw,creat\nwrite 0 8192 1\ndup 0 1 dup2 150\nfork\n"
        f"write 1 8192 2\npwrite 0 8192 3 16384\npread 1 30000 0\nopen 2 {TEMPORARY} rw,creat\n"
        "write 2 999 4\nfork\nwrite 2 999 5\npread 2 3000 0\n",
    )
    assert_only_decoded_equal(twins)


@pytest.mark.parametrize("how", ["rename", "renameat", "renameat2", "link", "linkat"])
def test_every_way_to_rename_encodes_for_the_new_name(twins, driver, how):
    """A new timeline's first segment is written under a temporary name."""
    twins.run(
        driver,
        f"open 0 pg_wal/xlogtemp.9 rw,creat\nwrite 0 65536 1\nclose 0\n"
        f"{how} pg_wal/xlogtemp.9 {SEGMENT}\nopen 1 {SEGMENT} ro\nread 1 70000\n",
    )
    plain = (twins.plain.data / SEGMENT).read_bytes()
    path, wal = twins.encrypted.data / SEGMENT, WalIdentity(timeline=1, log=0, segment=1)
    assert decode(path, twins.encrypted.keystore, KeyOwner.wal(), wal) == plain
    assert plain[:8192] not in path.read_bytes()


def test_an_unnamed_file_gets_the_mode_it_asks_for(twins, driver):
    """O_TMPFILE has a third argument, as O_CREAT has."""
    output = twins.run(driver, "open 0 .. rw tmpfile\nmode 0\nwrite 0 100 1\npread 0 100 0\n")
    assert "mode: 416\n" in output  # 0640


def test_copies_between_an_encrypted_and_a_plain_file(twins, driver):
    twins.run(
        driver,
        f"open 0 {RELATION} rw,creat\npwrite 0 200000 1 0\npwrite 0 704 2 200000\n"
        f"open 1 {PLAIN} rw,creat\ncopyrange 0 1 300000\npread 1 300000 0\n"
        f"open 2 {RELATION}_fsm rw,creat\ncopyat 1 2 16 8192 100000\npread 2 300000 0\n"
        "lseek 1 0 1\nlseek 2 0 1\n",
    )
    contents = [(harness.data / PLAIN).read_bytes() for harness in (twins.encrypted, twins.plain)]
    assert contents[0] == contents[1]


REFUSED = {
    "mmap 0": "No such device",
    "mmap64 0": "No such device",
    "sendfile 0 1": "Invalid argument",
    "sendfile64 1 0": "Invalid argument",
    "splice 0": "Invalid argument",
    "punch 0": "Operation not supported",
    "appending 0": "Operation not supported",
    "pwritev2append 0 0 1 8192": "Operation not supported",
    "preadv2nowait 0 0 0 8192": "Operation not supported",
    f"fopen {RELATION} r+": "Operation not supported",
    f"fopen {SEGMENT} w": "Operation not supported",
    f"freopen {TEMPORARY} a": "Operation not supported",
}


def test_what_has_no_encrypted_meaning_is_refused_in_every_spelling(twins, driver):
    prepare = f"open 0 {RELATION} rw,creat\npwrite 0 8192 1 0\nopen 1 {PLAIN} rw,creat\n"
    output = twins.encrypted.run(driver, prepare + "\n".join(REFUSED))
    assert output.splitlines()[3:] == [
        f"{line.split()[0]}: -1 {why}" for line, why in REFUSED.items()
    ]
    assert (twins.encrypted.data / PLAIN).stat().st_size == 0


def test_the_same_calls_work_on_plain_files(twins, driver):
    """What is refused for encrypted files, and only for them."""
    twins.run(
        driver,
        f"open 0 {PLAIN} rw,creat\npwrite 0 8192 1 0\nopen 1 pg_hba.conf rw,creat\n"
        "mmap 0\nmmap64 0\nmmapnone 0\n"
        "sendfile 0 1\nsendfile64 0 1\nlseek 0 0 0\nsplice 0\npunch 0\npread 0 8192 0\n"
        "pwritev2append 1 0 1 8192\npreadv2nowait 0 0 0 100\nappending 1\nwrite 1 9 2\n"
        f"fopen {PLAIN} r+\nfreopen pg_ident.conf w\nfopen pg_ident.conf a\npread 1 99999 0\n",
    )


def test_a_mapping_of_no_file_ignores_the_descriptor(twins, driver):
    twins.run(driver, f"open 0 {RELATION} rw,creat\nmmapnone 0\n")


# Names that each variant must import, or it would not test what it claims.
SPELLINGS = {
    "plain": "open openat creat pread preadv pwritev2 fcntl mmap fopen freopen truncate sendfile",
    "fortify": "__open_2 __openat_2 __open64_2 __openat64_2 __read_chk __pread_chk __pread64_chk",
    "large-files": "open64 openat64 creat64 pread64 pwrite64 preadv64 pwritev64 preadv64v2 "
    "pwritev64v2 fcntl64 mmap64 fopen64 freopen64 truncate64 ftruncate64 fallocate64 "
    "posix_fallocate64 sendfile64",
    "fortify-large-files": "__open64_2 __openat64_2 __read_chk __pread64_chk",
}


def undefined_symbols(binary: Path) -> set[str]:
    listing = subprocess.run(
        ["nm", "-D", "--undefined-only", binary], capture_output=True, text=True, check=True
    )
    return {line.split()[-1].split("@")[0] for line in listing.stdout.splitlines()}


@pytest.mark.parametrize("variant", SPELLINGS)
def test_each_variant_uses_the_spellings_it_stands_for(build, variant):
    assert set(SPELLINGS[variant].split()) <= undefined_symbols(build(variant))


def test_descriptors_above_65536(twins, driver):
    number = 70000
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (number + 1, max(before[1], number + 1)))
    except ValueError:
        pytest.skip(f"only {before[1]} files may be opened here")
    try:
        twins.run(
            driver,
            f"open 0 {RELATION} rw,creat\ndup 0 1 dup2 {number}\npwrite 1 8192 1 0\n"
            "pread 0 8192 0\nclose 1\npread 1 16 0\n",
        )
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert_only_decoded_equal(twins)


def test_the_table_of_descriptors_has_room_for_all(tmp_path: Path) -> None:
    """The table itself, because few systems let a test open so many files."""
    program = build_program(tmp_path, "files_table.c", "interpose/files/table.c")
    assert subprocess.run([program], capture_output=True, text=True, check=True).stdout == "ok\n"


def test_keys_are_never_taken_for_others(tmp_path: Path) -> None:
    """The memory of keys itself, with so few slots that they are used again at once."""
    program = build_program(
        tmp_path,
        "key_slots.c",
        *("interpose/keys/memory.c", "interpose/keys/slot_memory.c", "interpose/keys/slots.c"),
        *("interpose/libc/report.c", "interpose/libc/symbols.c"),
        *("crypto/primitives.c", "crypto/cipher.c", "crypto/library.c", "crypto/xts.c"),
        options=("-DTDE_KEYS_SLOTS=34u", "-DTDE_KEYS_LATER_WALS=2u", "-lcrypto"),
    )
    assert subprocess.run([program], capture_output=True, text=True, check=True).stdout == "done\n"


def test_sessions_agree_on_the_key_of_a_segment(tmp_path: Path) -> None:
    """The decision itself, by threads that open segments while the key is changed."""
    program = build_program(
        tmp_path,
        "wal_ranges.c",
        *("interpose/keys/memory.c", "interpose/libc/report.c", "interpose/libc/symbols.c"),
        *("format/page.c", "format/identity.c", "format/keymap.c"),
        *("crypto/primitives.c", "crypto/cipher.c", "crypto/library.c", "crypto/xts.c"),
        options=("-lcrypto", "-pthread"),
    )
    assert subprocess.run([program], capture_output=True, text=True, check=True).stdout == "done\n"


def test_direct_io(twins, driver):
    twins.run(
        driver,
        f"open 0 {RELATION} rw,creat,direct\npwrite 0 65536 1 0\npread 0 65536 0\n"
        "pwrite 0 8192 0 8192\npwritev 0 16384 3 8192 8192\npread 0 8192 8192\n",
    )
    assert_only_decoded_equal(twins)


def test_copying_between_files_encrypts_for_the_destination(twins, driver):
    other = "base/6"
    for harness in (twins.plain, twins.encrypted):
        (harness.data / other).mkdir()
    twins.run(
        driver,
        f"open 0 {RELATION} rw,creat\npwrite 0 300000 1 0\nlseek 0 0 0\n"
        f"open 1 {other}/16384 rw,creat\ncopyrange 0 1 1000000\nlseek 0 0 1\nlseek 1 0 1\n"
        "copyat 0 1 8192 0 20000\npread 1 400000 0\ncopyrange 0 1 100\n",
    )
    source = (twins.encrypted.data / RELATION).read_bytes()
    copied = (twins.encrypted.data / other / "16384").read_bytes()
    assert source[8192:16384] != copied[8192:16384], "identities differ, so must ciphertext"


def test_a_segment_under_its_partial_name_is_the_same_bytes(twins, build):
    driver = build("plain")
    for name in (SEGMENT, SEGMENT + ".partial", "pg_wal/archtemp.000000010000000000000001.1.2"):
        twins.encrypted.run(driver, f"open 0 {name} rw,creat\npwrite 0 65536 9 0\n")
    data = twins.encrypted.data
    contents = {path.read_bytes() for path in (data / "pg_wal").iterdir()}
    assert len(contents) == 1
    identity = WalIdentity(timeline=1, log=0, segment=1)
    plain = decode(data / SEGMENT, twins.encrypted.keystore, KeyOwner.wal(), identity)
    assert plain not in contents


@pytest.mark.parametrize("how", ["threads", "processes"])
def test_what_runs_at_the_same_time_is_not_disturbed(
    twins, build: Callable[..., Path], tmp_path: Path, how: str
):
    # A number that was closed may be another thread's file by the time it is read.
    body = SCRIPT.replace("close 0\npread 0 16 0\n", "close 0\n").replace(",excl", "")
    scripts = []
    for i in range(4):
        script = tmp_path / f"script{i}"
        script.write_text(body.format(file=f"base/5/{20000 + i}") * 5)
        scripts.append(str(script))
    outputs = []
    for harness in (twins.plain, twins.encrypted):
        harness.execute(build(how), scripts)
        outputs.append([Path(script + ".out").read_text() for script in scripts])
    for expected, actual in zip(*outputs, strict=True):
        assert actual.splitlines() == expected.splitlines()


@pytest.mark.parametrize("file", [RELATION, SEGMENT])
def test_sectors_that_a_power_cut_left_unwritten_are_zeros(twins, driver, file):
    """A first write that was torn is read, patched and written as in a plain file."""
    twins.run(driver, f"open 0 {file} rw,creat\npwrite 0 16384 1 0\n")
    for harness in (twins.encrypted, twins.plain):
        path = harness.data / file
        torn = bytearray(path.read_bytes())
        for sector in (0, 5, 6, 7, 15, 20):
            torn[512 * sector : 512 * (sector + 1)] = bytes(512)
        path.write_bytes(torn)
    twins.run(
        driver,
        f"open 0 {file} rw\npread 0 16384 0\npread 0 100 2600\npread 0 512 2560\npread 0 700 0\n"
        "pread 0 16 7680\npread 0 4000 2700\npread 0 9000 3000\n"
        # Into the middle of such sectors, from one into the next, and up to an edge.
        "pwrite 0 16 2 2608\npread 0 16384 0\npwrite 0 48 3 3568\npread 0 16384 0\n"
        "pwrite 0 100 4 7936\npread 0 16384 0\npwrite 0 112 5 400\npread 0 16384 0\n"
        "pwrite 0 8 6 10248\npread 0 16384 0\nclose 0\n"
        f"open 1 {file} ro\npread 1 16384 0\npread 1 100 2600\n",
    )
