"""Every kind of file name that PostgreSQL 15 to 19 has in a data directory, and near-misses.

The rows are written out from relpath.c, xlog_internal.h, fd.c, sharedfileset.c, slru.c,
reorderbuffer.c and basic_archive.c, so they do not repeat the C parser's logic.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tde import FileIdentity, Fork, IdentityError, RelationIdentity, WalIdentity, _core

MAX = 2**32 - 1
SEGMENT = 131072  # blocks in a 1 GiB segment file
WAL = "000000010000000A000000FF"

RELATIONS = [
    # path, tablespace, identity, first block
    ("base/5/16384", 1663, RelationIdentity(5, 16384), 0),
    ("base/1/1259", 1663, RelationIdentity(1, 1259), 0),
    ("base/5/16384_fsm", 1663, RelationIdentity(5, 16384, Fork.FSM), 0),
    ("base/5/16384_vm", 1663, RelationIdentity(5, 16384, Fork.VM), 0),
    ("base/5/16384_init", 1663, RelationIdentity(5, 16384, Fork.INIT), 0),
    ("base/5/16384.1", 1663, RelationIdentity(5, 16384), SEGMENT),
    ("base/5/16384_fsm.2", 1663, RelationIdentity(5, 16384, Fork.FSM), 2 * SEGMENT),
    ("base/5/16384.32767", 1663, RelationIdentity(5, 16384), 32767 * SEGMENT),
    (f"base/{MAX}/{MAX}", 1663, RelationIdentity(MAX, MAX), 0),
    ("base/5/t3_16384", 1663, RelationIdentity(5, 16384, temporary=True), 0),
    ("base/5/t0_16384", 1663, RelationIdentity(5, 16384, temporary=True), 0),
    ("base/5/t128_16384_vm", 1663, RelationIdentity(5, 16384, Fork.VM, temporary=True), 0),
    ("base/5/t3_16384_fsm.1", 1663, RelationIdentity(5, 16384, Fork.FSM, True), SEGMENT),
    ("global/1260", 1664, RelationIdentity(0, 1260), 0),
    ("global/1260_vm", 1664, RelationIdentity(0, 1260, Fork.VM), 0),
    ("pg_tblspc/16400/PG_15_202209061/5/16384", 16400, RelationIdentity(5, 16384), 0),
    ("pg_tblspc/16400/PG_16_202307071/5/16384.3", 16400, RelationIdentity(5, 16384), 3 * SEGMENT),
    (
        "pg_tblspc/16400/PG_18_202506291/5/t4_16384_fsm",
        16400,
        RelationIdentity(5, 16384, Fork.FSM, temporary=True),
        0,
    ),
    # The same files as tools name them.
    ("/var/lib/postgresql/15/main/base/5/16384", 1663, RelationIdentity(5, 16384), 0),
    ("./base/5/16384", 1663, RelationIdentity(5, 16384), 0),
    ("/data//base/./5//16384", 1663, RelationIdentity(5, 16384), 0),
    ("../data/global/1262", 1664, RelationIdentity(0, 1262), 0),
    ("pg_tblspc/../base/5/16384", 1663, RelationIdentity(5, 16384), 0),
]

SEGMENTS = [
    f"pg_wal/{WAL}",
    WAL,
    f"/archive/{WAL}",
    f"pg_wal/{WAL}.partial",
    f"/mnt/archive/archtemp.{WAL}.4711.1700000000000",
    f"/mnt/archive/archtemp.{WAL}.partial.4711.1700000000000",
    f"/mnt/archive/archtemp.{WAL}.00000028.backups.4711",
    f"base/5/{WAL}",
    f"./pg_wal//{WAL}",
]

EPHEMERAL = [
    # path, the part that is digested
    ("base/pgsql_tmp/pgsql_tmp4711.0", "base/pgsql_tmp/pgsql_tmp4711.0"),
    ("/d/base/pgsql_tmp/pgsql_tmp4711.12", "base/pgsql_tmp/pgsql_tmp4711.12"),
    (
        "base/pgsql_tmp/pgsql_tmp4711.0.fileset/i0of4.p0.0",
        "base/pgsql_tmp/pgsql_tmp4711.0.fileset/i0of4.p0.0",
    ),
    (
        "base/pgsql_tmp/pgsql_tmp9.1.sharedfileset/0.0",
        "base/pgsql_tmp/pgsql_tmp9.1.sharedfileset/0.0",
    ),
    (
        "pg_tblspc/16400/PG_15_202209061/pgsql_tmp/pgsql_tmp4711.0",
        "pg_tblspc/16400/PG_15_202209061/pgsql_tmp/pgsql_tmp4711.0",
    ),
    (
        "/d/pg_tblspc/16400/PG_18_202506291/pgsql_tmp/pgsql_tmp1.2.fileset/16392-7.changes.0",
        "pg_tblspc/16400/PG_18_202506291/pgsql_tmp/pgsql_tmp1.2.fileset/16392-7.changes.0",
    ),
    ("base/pgsql_tmp/16384", "base/pgsql_tmp/16384"),
    ("pg_wal/xlogtemp.4711", "pg_wal/xlogtemp.4711"),
    ("/d/pg_wal/xlogtemp.1", "pg_wal/xlogtemp.1"),
    (
        "pg_replslot/sub1/xid-745-lsn-0-1000000.spill",
        "pg_replslot/sub1/xid-745-lsn-0-1000000.spill",
    ),
    ("pg_notify/0000", "pg_notify/0000"),
    ("/backup/pgsql_tmp/pg_notify/0000", "pg_notify/0000"),
    ("pg_notify/000000000000001", "pg_notify/000000000000001"),
]

PLAIN = [
    "",
    "/",
    ".",
    "base",
    "base/5",
    "16384",
    "5/16384",
    "postgresql.conf",
    "PG_VERSION",
    "base/5/PG_VERSION",
    "base/5/pg_filenode.map",
    "base/5/pg_internal.init",
    "base/5/pg_internal.init.4711",
    "global/pg_control",
    "global/pg_filenode.map",
    "global/pg_internal.init",
    "postmaster.pid",
    "backup_label",
    "tablespace_map",
    "backup_manifest",
    "pg_xact/0000",
    "pg_multixact/members/0000",
    "pg_multixact/offsets/0000",
    "pg_subtrans/0000",
    "pg_commit_ts/0000",
    "pg_serial/000000000000000",
    "pg_twophase/000002F1",
    "pg_twophase/00000000000002F1",
    "pg_logical/mappings/map-4000-4eb-1_60DE1E08-5376b5-537c6b",
    "pg_logical/snapshots/0-40796E18.snap",
    "pg_logical/replorigin_checkpoint",
    "pg_replslot/sub1/state",
    "pg_stat/pgstat.stat",
    "pg_stat_tmp/pgss_query_texts.stat",
    "pg_dynshmem/mmap.4711",
    # Beside WAL segments.
    "pg_wal/00000002.history",
    f"pg_wal/{WAL}.00000028.backup",
    f"pg_wal/archive_status/{WAL}.ready",
    f"pg_wal/archive_status/{WAL}.done",
    f"pg_wal/archive_status/{WAL}.partial.ready",
    "pg_wal/summaries/0000000100000000010000280000000001000158.summary",
    "pg_wal/summaries/temp.summary",
    "pg_wal/RECOVERYHISTORY",
    "pg_wal/RECOVERYXLOG",
    "xlogtemp.4711",
    "archive/archtemp.00000002.history.4711.17",
    f"archive/archtemp.{WAL}.00000028.backup.4711.17",
    # Nearly WAL segments.
    f"pg_wal/{WAL.lower()}",
    f"pg_wal/{WAL[:-1]}",
    f"pg_wal/{WAL}0",
    f"pg_wal/{WAL[:-1]}G",
    f"pg_wal/{WAL}.",
    f"pg_wal/{WAL}.partial2",
    f"pg_wal/{WAL}.PARTIAL",
    f"pg_wal/x{WAL}",
    f"archive/archtemp.{WAL}",
    f"archive/archtemp.{WAL}4711",
    f"archive/archtemp{WAL}.1",
    # Nearly relation files.
    "base/5/0",
    "base/5/016384",
    "base/5/16384.",
    "base/5/16384.0",
    "base/5/16384.01",
    "base/5/16384.32768",
    "base/5/16384.4294967296",
    "base/5/16384.1.2",
    "base/5/16384.1_fsm",
    "base/5/16384_",
    "base/5/16384_FSM",
    "base/5/16384_fsm_vm",
    "base/5/16384_fsmx",
    "base/5/16384_main",
    "base/5/16384x",
    "base/5/16384 ",
    "base/5/-16384",
    "base/5/+16384",
    "base/5/0x4000",
    f"base/5/{MAX + 1}",
    "base/5/99999999999999999999",
    f"base/{MAX + 1}/16384",
    "base/05/16384",
    "base/x/16384",
    "base/../16384",
    "base/16384",
    "base/5/6/16384",
    "Base/5/16384",
    "xbase/5/16384",
    "base/5/t_16384",
    "base/5/t3",
    "base/5/t3_",
    "base/5/t3_0",
    "base/5/t03_16384",
    "base/5/t-1_16384",
    "base/5/T3_16384",
    f"base/5/t{MAX + 1}_16384",
    "base/5/tt3_16384",
    "global/5/1260",
    "globals/1260",
    "pg_tblspc/16400",
    "pg_tblspc/16400/5/16384",
    "pg_tblspc/16400/PG_15_202209061/16384",
    "pg_tblspc/16400/XG_15/5/16384",
    "pg_tblspc/x/PG_15_202209061/5/16384",
    "pg_tblspc/016400/PG_15_202209061/5/16384",
    "PG_15_202209061/5/16384",
    "16400/PG_15_202209061/5/16384",
    "tblspc/16400/PG_15_202209061/5/16384",
    # Nearly ephemeral files.
    "pgsql_tmp/pgsql_tmp4711.0",
    "5/pgsql_tmp/pgsql_tmp4711.0",
    "base/pgsql_tmp",
    "base/pgsql_tmp/a/b/c",
    "base/pgsql_tmpx/pgsql_tmp4711.0",
    "pg_tblspc/16400/pgsql_tmp/pgsql_tmp4711.0",
    "pg_tblspc/x/PG_15_202209061/pgsql_tmp/pgsql_tmp4711.0",
    "pg_wal/xlogtemp",
    "pg_wal/archive_status/xlogtemp.4711",
    "pg_notify",
    "pg_replslot/sub1/xid-745-lsn-0-1000000.spill.tmp",
    "pg_replslot/x.spill",
]


@pytest.mark.parametrize(("path", "tablespace", "identity", "first_block"), RELATIONS)
def test_files_of_relations_are_recognised(
    path: str, tablespace: int, identity: RelationIdentity, first_block: int
) -> None:
    assert FileIdentity.from_path(path) == FileIdentity(identity, first_block, tablespace)


@pytest.mark.parametrize("path", SEGMENTS)
def test_wal_segments_are_recognised(path: str) -> None:
    assert FileIdentity.from_path(path) == FileIdentity(WalIdentity(1, 10, 255), 0, None)


def test_wal_words_use_all_their_bits() -> None:
    assert FileIdentity.from_path("FFFFFFFF89ABCDEF01234567").identity == WalIdentity(
        MAX, 0x89ABCDEF, 0x01234567
    )


@pytest.mark.parametrize(("path", "name"), EPHEMERAL)
def test_ephemeral_files_are_recognised(path: str, name: str) -> None:
    assert _core.parse_path(path) == (_core.CLASS_EPHEMERAL, 0, 0, 0, 0, 0, 0, name)
    with pytest.raises(IdentityError):
        FileIdentity.from_path(path)


@pytest.mark.parametrize("path", PLAIN)
def test_files_of_no_class_are_plain(path: str) -> None:
    assert _core.parse_path(path) == (_core.CLASS_PLAIN, 0, 0, 0, 0, 0, 0, None)
    with pytest.raises(IdentityError, match="neither a relation file nor a WAL segment"):
        FileIdentity.from_path(path)


def test_no_name_is_in_two_tables() -> None:
    names = [row[0] for row in RELATIONS] + SEGMENTS + [row[0] for row in EPHEMERAL] + PLAIN
    assert len(names) == len(set(names))


def test_path_objects_and_undecodable_names() -> None:
    assert FileIdentity.from_path(Path("base/5/16384")).identity == RelationIdentity(5, 16384)
    assert _core.parse_path(b"base/5/16384")[0] == _core.CLASS_RELATION
    undecodable = os.fsdecode(b"/data/\xff\xfe/base/pgsql_tmp/\xff")
    assert _core.parse_path(undecodable)[7] == os.fsdecode(b"base/pgsql_tmp/\xff")


def test_a_nul_in_a_path_is_refused() -> None:
    with pytest.raises(ValueError, match="null"):
        FileIdentity.from_path("base/5/16384\0.conf")
