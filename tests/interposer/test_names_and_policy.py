"""Names that change, files without a key, calls that are refused, and who sees plaintext."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tde import Algorithm, WalIdentity
from tde.keystore import KeyOwner
from tests.interposer.harness import (
    AES128_TABLESPACE,
    PLAIN,
    PLAINTEXT_TABLESPACE,
    RELATION,
    SEGMENT,
    TEMPORARY,
    Harness,
    make_keystore,
    preload,
)
from tests.interposer.stored import decode

XLOGTEMP = "pg_wal/xlogtemp.77"
HISTORY = "pg_wal/00000002.history"


@pytest.mark.parametrize("how", ["rename", "link"])
def test_xlogtemp_becomes_a_segment(twins, driver, how):
    """XLogFileCopy at a timeline switch writes real WAL under a temporary name."""
    twins.run(
        driver,
        f"open 0 {XLOGTEMP} rw,creat\npwrite 0 100000 1 0\nftruncate 0 1048576\nclose 0\n"
        f"{how} {XLOGTEMP} {SEGMENT}\nopen 0 {SEGMENT} ro\npread 0 1048576 0\n",
    )
    plain = (twins.plain.data / SEGMENT).read_bytes()
    stored = twins.encrypted.data / SEGMENT
    owner, identity = KeyOwner.wal(), WalIdentity(1, 0, 1)
    assert stored.read_bytes()[:100000] != plain[:100000]
    assert decode(stored, twins.encrypted.keystore, owner, identity) == plain


def test_xlogtemp_becomes_a_history_file(twins, driver):
    """writeTimeLineHistory writes a text of any length, which ends up plain by design."""
    twins.run(
        driver,
        f"open 0 {XLOGTEMP} rw,creat\nwrite 0 41 3\nwrite 0 9000 4\nclose 0\n"
        f"rename {XLOGTEMP} {HISTORY}\nopen 0 {HISTORY} ro\nread 0 20000\n",
    )
    assert (twins.encrypted.data / HISTORY).read_bytes() == (
        twins.plain.data / HISTORY
    ).read_bytes()


def test_xlogtemp_is_ciphertext_before_it_is_renamed(twins, build):
    twins.run(build(), f"open 0 {XLOGTEMP} rw,creat\nwrite 0 41 3\n")
    written = (twins.plain.data / XLOGTEMP).read_bytes()
    assert (twins.encrypted.data / XLOGTEMP).read_bytes() != written


def test_each_start_encrypts_ephemeral_files_differently(twins, build):
    contents = set()
    for _ in range(2):
        twins.encrypted.run(build(), f"open 0 {TEMPORARY} rw,creat\npwrite 0 8192 1 0\n")
        contents.add((twins.encrypted.data / TEMPORARY).read_bytes())
    assert len(contents) == 2


def test_a_tablespace_without_a_key_cannot_be_opened(twins, build):
    path = "pg_tblspc/16402/PG_15_202209061/5/16390"
    run = twins.encrypted.execute(build(), [script(twins.encrypted, f"open 0 {path} rw,creat\n")])
    assert run.stdout == "open: -1 Required key not available\n"
    assert not (twins.encrypted.data / path).exists()
    assert "16402" in run.stderr
    assert "tde tablespace create" in run.stderr


def test_a_key_that_appears_while_the_program_runs_is_found(tmp_path, twins, build):
    """A tablespace is created while the server runs: no restart is needed."""
    path = f"pg_tblspc/{AES128_TABLESPACE}/PG_15_202209061/5/1"
    fifo = twins.encrypted.data / "script.txt"
    keystore = make_keystore(tmp_path / "other")
    key = keystore.path / "keys" / f"{AES128_TABLESPACE}.key"
    record = key.read_bytes()
    key.unlink()
    os.mkfifo(fifo)
    harness = Harness(twins.encrypted.data, keystore)
    reader = os.fork()
    if reader == 0:  # Feeds the script line by line and restores the key in between.
        with fifo.open("w", buffering=1) as to:
            to.write(f"open 0 {path} rw,creat\n")
            to.flush()
            import time

            time.sleep(0.5)
            key.write_bytes(record)
            key.chmod(0o600)
            to.write(f"open 0 {path} rw,creat\n")
        os._exit(0)
    output = harness.execute(build(), [str(fifo)]).stdout
    os.waitpid(reader, 0)
    keystore.close()
    assert output.splitlines() == ["open: -1 Required key not available", "open: 0"]


@pytest.mark.parametrize("damage", ["truncated", "flipped", "swapped", "foreign"])
def test_a_damaged_key_record_is_refused(tmp_path, twins, build, damage):
    keystore = make_keystore(tmp_path / "damaged")
    key = keystore.path / "keys" / f"{AES128_TABLESPACE}.key"
    record = bytearray(key.read_bytes())
    if damage == "truncated":
        record = record[:-1]
    elif damage == "flipped":
        record[70] ^= 1
    elif damage == "swapped":
        keystore.create_key(KeyOwner.tablespace(16500), Algorithm.AES128)
        record = bytearray((keystore.path / "keys" / "16500.key").read_bytes())
    else:
        other = make_keystore(tmp_path / "foreign")
        record = bytearray((other.path / "keys" / key.name).read_bytes())
        other.close()
    key.write_bytes(record)
    path = f"pg_tblspc/{AES128_TABLESPACE}/PG_15_202209061/5/1"
    harness = Harness(twins.encrypted.data, keystore)
    run = harness.execute(build(), [script(harness, f"open 0 {path} rw,creat\n")])
    keystore.close()
    assert run.stdout == "open: -1 Required key not available\n"
    assert str(key) in run.stderr


def test_a_closed_keystore_refuses_data_and_nothing_else(twins, build):
    environment = {"LD_PRELOAD": preload()}
    harness = Harness(twins.encrypted.data, None)
    arguments = [
        script(
            harness,
            f"open 0 {RELATION} rw,creat\nopen 1 {SEGMENT} ro\nopen 2 postgresql.conf rw,creat\n",
        )
    ]
    run = harness.execute(build(), arguments, environment=environment)
    assert run.stdout.splitlines() == [
        "open: -1 Required key not available",
        "open: -1 Required key not available",
        "open: 0",
    ]
    assert "could not encrypt or decrypt data because the keystore is not open" in run.stderr


def test_what_cannot_be_encrypted_is_refused(twins, build):
    output = twins.encrypted.run(
        build(),
        f"open 0 {RELATION} rw,creat\npwrite 0 8192 1 0\nopen 1 postgresql.conf rw,creat\n"
        f"mmap 0\nsendfile 0 1\npunch 0\nfopen {RELATION} r+\nfopen {SEGMENT} w\n"
        f"open 2 {RELATION} rw,append\npwrite 0 8200 1 8192\n",
    )
    assert output.splitlines()[3:] == [
        "mmap: -1 No such device",
        "sendfile: -1 Invalid argument",
        "punch: -1 Operation not supported",
        "fopen: -1 Operation not supported",
        "fopen: -1 Operation not supported",
        "open: -1 Operation not supported",
        "pwrite: 8192",  # The 8 bytes that have no AES block are not written.
    ]


def test_shared_memory_files_are_refused(twins, build):
    """dynamic_shared_memory_type = mmap would put rows there, past every wrapper."""
    (twins.encrypted.data / "pg_dynshmem").mkdir()
    path = script(twins.encrypted, "open 0 pg_dynshmem/mmap.77 rw,creat,excl\n")
    run = twins.encrypted.execute(build(), [path])
    assert run.stdout == "open: -1 Operation not supported\n"
    assert "dynamic_shared_memory_type" in run.stderr


# Ways to make a file of a name that nobody knows; @ is that name.
MAKERS = {
    "open": "open 0 @ rw,creat",
    "for writing only": "open 0 @ wo,creat,excl",
    "creat": "open 0 @ creat",
    "stream": "fopen @ w",
    "appended stream": "fopen @ a+",
    "reopened stream": "freopen @ w",
    "renamed": f"rename {PLAIN} @",
    "linked": f"linkat {PLAIN} @",
    "renamed ephemeral file": f"rename {TEMPORARY} @",
}
UNKNOWN = [
    *("rows", "./rows", "base/5/16384.dat", "base/rows", "pg_wal/rows", "pg_wal/../global/rows"),
    *("new/part.1", f"pg_tblspc/{AES128_TABLESPACE}/PG_15_202209061/5/rows", "log/rows.log"),
]


@pytest.mark.parametrize("how", MAKERS.values(), ids=list(MAKERS))
def test_no_plaintext_gets_a_name_in_the_cluster_that_nobody_knows(twins, build, how):
    harness = twins.encrypted
    prepare = f"open 1 {PLAIN} rw,creat\nopen 2 {TEMPORARY} rw,creat\nwrite 2 100 1\n"
    harness.run(build(), prepare)
    for directory in ("new", "log"):
        (harness.data / directory).mkdir()
    for name in (*UNKNOWN, str(harness.data / "rows"), f"../{harness.data.name}/base/rows"):
        path = script(harness, how.replace("@", name) + "\n")
        run = harness.execute(build(), [path])
        assert run.stdout.endswith(": -1 Operation not supported\n"), name
        assert f"refused to create {name}: " in run.stderr
        assert "HINT: write it to a directory outside" in run.stderr
        assert not (harness.data / name).exists()


def test_directories_may_have_any_name(twins, driver):
    """PostgreSQL renames those of replication slots and of temporary files."""
    for harness in (twins.plain, twins.encrypted):
        (harness.data / "pg_replslot/slot.tmp").mkdir(parents=True)
    twins.run(driver, "rename pg_replslot/slot.tmp pg_replslot/slot\nrename pg_replslot moved\n")
    assert (twins.encrypted.data / "moved/slot").is_dir()


def test_a_file_without_a_name_is_refused_in_the_cluster(twins, build):
    output = twins.encrypted.run(build(), "open 0 base/5 rw tmpfile\nopen 1 . rw tmpfile\n")
    assert output == "open: -1 Operation not supported\n" * 2


@pytest.mark.parametrize("name", [RELATION, SEGMENT, TEMPORARY, "pg_notify/0000", "rows"])
def test_outside_of_the_cluster_a_name_proves_nothing(twins, driver, name):
    outside = []
    for harness in (twins.plain, twins.encrypted):
        outside.append(harness.data.parent / f"{harness.data.name}-outside")
        (outside[-1] / name).parent.mkdir(parents=True)
    for harness, directory in zip((twins.plain, twins.encrypted), outside, strict=True):
        for path in (f"../{directory.name}/{name}", str(directory / name)):
            harness.run(
                driver,
                f"open 0 {path} wo,creat,trunc\nwrite 0 5000 1\nclose 0\nfopen {path} a\n"
                f"truncate {path} 4999\nopen 1 {path} ro\nmmap 1\nrename {path} {path}.old\n",
            )
    stored = [(directory / f"{name}.old").read_bytes() for directory in outside]
    assert stored[0] == stored[1]
    assert len(stored[0]) == 4999


@pytest.mark.parametrize(
    ("process", "encrypted"),
    [
        *(("archiver", True), ("walreceiver", True), ("a process to come", True)),
        *(("client backend", False), ("walsender", False), ("background worker", False)),
    ],
)
def test_wal_outside_of_the_cluster_is_that_of_processes_without_sql(
    twins, build, process, encrypted
):
    segment = twins.encrypted.data.parent / Path(SEGMENT).name
    path = script(twins.encrypted, f"open 0 {segment} rw,creat,excl\npwrite 0 8192 1 0\n")
    environment = {"PLAYED_PROCESS": process}
    twins.encrypted.execute(build(), [path], environment=environment)
    twins.plain.run(build(), f"open 0 {RELATION} rw,creat\npwrite 0 8192 1 0\n")
    plain = (twins.plain.data / RELATION).read_bytes()
    assert (segment.read_bytes() != plain) is encrypted


@pytest.mark.parametrize("how", ["wo", "rw"])
def test_spill_files_of_logical_decoding_are_appended_to(twins, driver, how):
    for harness in (twins.plain, twins.encrypted):
        (harness.data / "pg_replslot/slot").mkdir(parents=True)
    path = "pg_replslot/slot/xid-726-lsn-0-1000000.spill"
    twins.run(
        driver,
        f"open 0 {path} {how},creat,append\nwrite 0 100 1\nwrite 0 9000 2\nlseek 0 0 0\n"
        f"write 0 77 3\nlseek 0 0 1\npwritev 0 0 4 10 20\nwritev 0 0 5 30 8000\n"
        f"open 1 {path} ro\npread 1 20000 0\nread 1 100\nread 1 9100\n",
    )


def test_streams_may_read_raw_bytes(twins, build):
    output = twins.encrypted.run(
        build(), f"open 0 {RELATION} rw,creat\npwrite 0 8192 1 0\nfopen {RELATION} r\n"
    )
    assert output.splitlines()[-1] == "fopen: 0"


@pytest.mark.parametrize(
    ("program", "file", "seen"),
    [
        ("postgres", RELATION, "plaintext"),
        ("postgres", SEGMENT, "plaintext"),
        ("pg_checksums", RELATION, "plaintext"),
        ("pg_waldump", SEGMENT, "plaintext"),
        ("pg_receivewal", SEGMENT, "plaintext"),
        ("pg_basebackup", SEGMENT, "plaintext"),
        ("pg_basebackup", RELATION, "raw"),
        ("pg_rewind", RELATION, "raw"),
        ("pg_rewind", SEGMENT, "raw"),
        ("pg_verifybackup", SEGMENT, "raw"),
        ("cp", RELATION, "raw"),
        ("initdb", SEGMENT, "raw"),
    ],
)
def test_who_sees_plaintext(twins, build, program, file, seen):
    create = f"open 0 {file} rw,creat\npwrite 0 8192 1 0\nclose 0\n"
    read = f"open 0 {file} ro\npread 0 8192 0\n"
    plaintext = twins.run(build(), create + read).splitlines()[-2:]
    actual = twins.encrypted.run(build(program=program), read).splitlines()[-2:]
    assert (actual == plaintext) is (seen == "plaintext")


def test_pg_rewind_parses_only_the_wal_of_its_target(twins, build, tmp_path):
    create = f"open 0 {SEGMENT} rw,creat\npwrite 0 8192 1 0\nclose 0\n"
    read = "open 0 {}/pg_wal/000000010000000000000001 ro\npread 0 8192 0\n"
    plaintext = twins.run(build(), create + read.format(".")).splitlines()[-2:]
    source = tmp_path / "source"
    (source / "pg_wal").mkdir(parents=True)
    (source / SEGMENT).write_bytes((twins.encrypted.data / SEGMENT).read_bytes())
    for directory, expected in ((twins.encrypted.data, True), (source, False)):
        path = script(twins.encrypted, read.format(directory))
        for option in (["-D", "."], ["--target-pgdata=."]):
            run = twins.encrypted.execute(build(program="pg_rewind"), [path, *option])
            assert (run.stdout.splitlines()[-2:] == plaintext) is expected


@pytest.mark.parametrize(
    "name",
    [
        "pg_wal.tar.zst",
        "000000010000000000000001.zst",
    ],
)
def test_received_wal_is_not_written_where_it_cannot_be_encrypted(twins, build, name):
    path = script(twins.encrypted, f"open 0 {name} rw,creat\n")
    run = twins.encrypted.execute(build(program="pg_receivewal"), [path])
    assert run.stdout == "open: -1 Operation not supported\n"
    assert "would not be encrypted" in run.stderr
    assert not (twins.encrypted.data / name).exists()


def test_a_plaintext_tablespace_is_stored_as_it_is(twins, build):
    path = f"pg_tblspc/{PLAINTEXT_TABLESPACE}/PG_15_202209061/5/7"
    twins.run(build(), f"open 0 {path} rw,creat\npwrite 0 8192 1 0\n")
    assert (twins.encrypted.data / path).read_bytes() == (twins.plain.data / path).read_bytes()


def test_a_path_relative_to_a_database_directory_is_recognised(twins, build):
    path = script(twins.encrypted, "open 0 16384 rw,creat\npwrite 0 8192 1 0\n")
    inside = Harness(twins.encrypted.data / "base/5", twins.encrypted.keystore)
    inside.execute(build(), [path])
    twins.plain.run(build(), f"open 0 {RELATION} rw,creat\npwrite 0 8192 1 0\n")
    stored = (twins.encrypted.data / RELATION).read_bytes()
    assert len(stored) == 8192
    assert stored != (twins.plain.data / RELATION).read_bytes()


def script(harness: Harness, text: str) -> str:
    """Write a script where the driver finds it; returns its path."""
    path = harness.data / "script.txt"
    path.write_text(text)
    return str(path)
