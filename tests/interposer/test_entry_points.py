"""Every libc entry that reads, writes or copies descriptors, in every way to run it."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest
from harness import AES128_TABLESPACE, PLAINTEXT_TABLESPACE, RELATION, SEGMENT, TEMPORARY
from stored import decode

from tde import RelationIdentity, WalIdentity
from tde.keystore import KeyOwner

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
open 2 {file} ro
pread 2 200000 0
close 2
"""


@pytest.mark.parametrize("file", FILES.values(), ids=FILES.keys())
def test_reads_and_writes_look_like_those_of_a_plain_file(twins, driver, file):
    twins.run(driver, SCRIPT.format(file=file))


@pytest.mark.parametrize(
    "variant",
    ["open64", "openat", "openat64", "creat", "creat64", "nomode", "nomode64", "nomodeat"],
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


def test_a_descriptor_that_is_reused_for_a_plain_file_is_not_encrypted(twins, driver):
    script = f"open 0 {RELATION} rw,creat\n{{close}} 0\nopen 0 plain rw,creat\npwrite 0 100 1 0\n"
    for close in ("close", "closerange"):
        twins.run(driver, script.format(close=close))
        assert (twins.encrypted.data / "plain").read_bytes() == (
            twins.plain.data / "plain"
        ).read_bytes()


def test_descriptors_above_65536(twins, driver):
    number = 70000
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (number + 1, max(before[1], number + 1)))
    except ValueError:
        pytest.skip(f"an ordinary user may open only {before[1]} files here")
    try:
        twins.run(
            driver,
            f"open 0 {RELATION} rw,creat\ndup 0 1 dup2 {number}\npwrite 1 8192 1 0\n"
            "pread 0 8192 0\nclose 1\npread 1 16 0\n",
        )
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert_only_decoded_equal(twins)


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


def test_threads_do_not_disturb_each_other(twins, build, tmp_path: Path):
    driver = build("threads")
    scripts = []
    for i in range(4):
        script = tmp_path / f"thread{i}"
        script.write_text(SCRIPT.format(file=f"base/5/{20000 + i}") * 5)
        scripts.append(str(script))
    outputs = []
    for harness in (twins.plain, twins.encrypted):
        harness.execute(driver, scripts)
        outputs.append([Path(script + ".out").read_text() for script in scripts])
    for expected, actual in zip(*outputs, strict=True):
        assert actual.splitlines() == expected.splitlines()
