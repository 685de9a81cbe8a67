"""What ``tde pg audit`` finds when it is planted in a copy of an encrypted cluster."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tde import Algorithm, FileIdentity
from tde.audit import FileClass, FindingKind
from tde.errors import ClusterKeystoreError, DataDirectoryError
from tde.postgres import Scope, audit, create_tablespace
from tde.postgres.cluster.keymap import (
    KEYMAP_FILE,
    KeySource,
    MapEntry,
    map_key,
    pack_map,
    read_map,
)
from tests.audit.prepared import (
    PAGE,
    TEXT,
    checksum_fits,
    only_finding,
    store,
    write_at,
    written_blocks,
)
from tests.postgres.canaries import CANARY, settle
from tests.postgres.cluster_copies import make_directory


def test_a_clean_cluster_with_archive_and_backup(copy):
    report = copy.audit(archives=[copy.archive], backups=[copy.backup], canary=TEXT)
    assert report.clean, report.findings
    assert not report.running
    by_name = {(line.place, line.name): line for line in report.lines}
    # How many there are depends on the version of PostgreSQL and on the system's locales.
    wal = by_name["cluster", "WAL"]
    assert wal.verified + wal.recycled == written_blocks(copy.root / "pg_wal")
    archived = by_name[f"archive {copy.archive}", "WAL"]
    assert archived.verified == written_blocks(copy.archive)
    for place, root in (("cluster", copy.root), (f"backup {copy.backup}", copy.backup)):
        line = by_name[place, "pg_default"]
        assert line.verified == written_blocks(root / "base")
    ours = [line for line in report.lines if line.tablespace == copy.tablespace]
    assert [line.algorithm for line in ours] == [Algorithm.AES128] * 2
    assert all(line.verified > 100 for line in ours)
    assert any("pg_control" in files.files for files in report.plain)
    assert not any(line.torn or line.unproven for line in report.lines)


def test_one_plaintext_page_in_the_middle_of_a_relation(copy):
    path = copy.root / copy.heap
    plain = copy.decrypted(path, copy.heap)
    assert CANARY in plain
    write_at(path, 60 * PAGE, plain[60 * PAGE : 61 * PAGE])
    finding = only_finding(copy.audit())
    assert (finding.kind, finding.file) == (FindingKind.PLAIN_PAGE, path)
    assert (finding.block, finding.blocks) == (60, 1)
    assert "plaintext" in finding.problem
    assert finding.remedy


def test_part_of_a_page_in_plaintext(copy):
    path = copy.root / copy.heap
    plain = copy.decrypted(path, copy.heap)
    write_at(path, 60 * PAGE + 4096, plain[60 * PAGE + 4096 : 61 * PAGE])
    finding = only_finding(copy.audit())
    assert (finding.kind, finding.block) == (FindingKind.PLAINTEXT, 60)


def test_a_relation_copied_over_another(copy):
    store(copy.root / copy.other, (copy.root / copy.heap).read_bytes())
    finding = only_finding(copy.audit())
    assert (finding.kind, finding.file) == (FindingKind.FOREIGN, copy.root / copy.other)
    assert finding.block == 0
    assert finding.blocks > 100
    assert copy.heap in finding.problem


def test_a_relation_of_another_tablespace(copy):
    moved = copy.root / copy.in_tablespace
    store(moved.parent / Path(copy.heap).name, (copy.root / copy.heap).read_bytes())
    finding = only_finding(copy.audit())
    assert finding.kind is FindingKind.FOREIGN
    assert "key of tablespace 1663" in finding.problem


@pytest.mark.parametrize("place", ["archive", "pg_wal"])
def test_a_plaintext_segment(copy, place):
    archived = sorted(copy.archive.glob("0*[0-9A-F]"))[-1]
    plain = copy.decrypted(archived, archived.name)
    path = archived if place == "archive" else copy.root / "pg_wal" / archived.name
    store(path, plain)
    report = copy.audit(archives=[copy.archive])
    assert {finding.file for finding in report.findings} == {path}
    assert {finding.kind for finding in report.findings} == {FindingKind.PLAIN_PAGE}
    line = next(line for line in report.lines if line.findings)
    assert line.file_class is FileClass.WAL
    assert line.place.startswith("archive" if place == "archive" else "cluster")


def test_a_segment_copied_over_another(copy):
    segments = sorted(copy.archive.glob("0*[0-9A-F]"))
    store(segments[1], segments[0].read_bytes())
    report = copy.audit(archives=[copy.archive])
    assert {finding.file for finding in report.findings} == {segments[1]}
    assert report.findings[0].kind is FindingKind.FOREIGN
    assert segments[0].name in report.findings[0].problem


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16-le"])
@pytest.mark.parametrize("offset", [100, PAGE - 5, (1 << 20) - 7, (64 << 20) - 9])
def test_a_canary_in_a_temporary_file(copy, encoding, offset):
    """Also across the ends of blocks, of chunks that are read, and of stretches of a thread."""
    path = copy.root / "base/pgsql_tmp/pgsql_tmp77.0"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(os.urandom(2 * PAGE))
    os.truncate(path, (64 << 20) + PAGE)
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(TEXT.encode(encoding))
    report = copy.audit(canary=TEXT)
    hits = [f for f in report.findings if f.kind is FindingKind.CANARY]
    assert [(hit.file, hit.offsets) for hit in hits] == [(path, (offset,))]


def test_rows_in_temporary_files(copy):
    directory = copy.root / "base/pgsql_tmp"
    directory.mkdir(exist_ok=True)
    (directory / "pgsql_tmp77.0").write_bytes(os.urandom(3 * PAGE + 700))
    (directory / "pgsql_tmp77.1").write_bytes(os.urandom(100))
    (directory / "pgsql_tmp77.2").write_bytes(os.urandom(PAGE) + CANARY * 10)
    (directory / "pgsql_tmp77.3").write_bytes(CANARY * 1000)
    report = copy.audit()
    found = {(finding.file.name, finding.block) for finding in report.findings}
    assert found == {("pgsql_tmp77.2", 1), ("pgsql_tmp77.3", 0)}
    assert {finding.kind for finding in report.findings} == {FindingKind.PLAINTEXT}
    line = next(line for line in report.lines if line.file_class is FileClass.EPHEMERAL)
    assert (line.too_short, line.random) == (1, 5)


def test_a_tablespace_in_plaintext_in_scope_cluster(copy, original):
    oid = 77777
    original.keystore.create_plaintext_entry(oid)
    try:
        space = copy.root.parent / "plain"
        (space / "PG_x").mkdir(parents=True)
        (copy.root / "pg_tblspc" / str(oid)).symlink_to(space)
        known = read_map(copy.root, copy.keystore.uuid, None).entries.values()
        entries = [*known, MapEntry(oid, KeySource.RECORD)]
        (copy.root / KEYMAP_FILE).write_bytes(
            pack_map(entries, copy.keystore.uuid, map_key(copy.keystore))
        )
        finding = next(f for f in copy.audit().findings if f.kind is FindingKind.POLICY)
        assert str(oid) in finding.problem
        assert finding.remedy
    finally:
        (original.keystore.path / "keys" / f"{oid}.key").unlink()


def test_plaintext_by_decision_is_no_finding(
    encrypted_cluster_factory, any_binaries, os_user_tmp_path
):
    """Plaintext by decision is no finding; a tablespace without any record is one."""
    made = encrypted_cluster_factory(any_binaries, scope=Scope.TABLESPACES)
    create_tablespace(made.cluster, made.keystore, "open", os_user_tmp_path / "open", None)
    made.query(f"CREATE TABLE t TABLESPACE open AS SELECT '{TEXT}' AS x")
    settle(made)
    report = audit(made.cluster, made.keystore)
    assert report.clean
    assert sum(line.by_decision for line in report.lines) == 3
    canaries = audit(made.cluster, made.keystore, canary=TEXT).findings
    assert canaries
    assert all("by decision" in finding.remedy for finding in canaries)
    # Made in SQL under a release before the key map, which did not refuse that.
    location = make_directory(made, os_user_tmp_path / "nokey")
    (made.data_directory / "pg_tblspc" / "77777").symlink_to(location)
    finding = only_finding(audit(made.cluster, made.keystore))
    assert finding.kind is FindingKind.NO_KEY
    assert finding.file == location


def test_damage_is_told_from_plaintext(copy):
    path = copy.root / copy.heap
    stored = path.read_bytes()[5 * PAGE + 5000]
    for bit in range(8):
        write_at(path, 5 * PAGE + 5000, bytes([stored ^ 1 << bit]))
        if not checksum_fits(copy.decrypted(path, copy.heap)[5 * PAGE : 6 * PAGE], 5):
            break  # One change in 65,536 goes unnoticed.
    finding = only_finding(copy.audit())
    assert (finding.kind, finding.block) == (FindingKind.BAD_CHECKSUM, 5)


def test_torn_pages_of_a_backup_need_replay(copy):
    """A page that the copy caught half-written is repaired by WAL replay, so it is no finding."""
    name = copy.heap
    path = copy.backup / name
    plain = bytearray(copy.decrypted(path, name)[: 2 * PAGE])
    while checksum_fits(bytes(plain[:PAGE]), 0):
        plain[PAGE - 100 : PAGE] = os.urandom(100)
    with copy.cipher(name) as cipher:
        newer = cipher.encrypt_pages(plain, identity=FileIdentity.from_path(name).identity)
    write_at(path, 4096, newer[4096:PAGE])
    write_at(path, PAGE, bytes(512))  # Never written before: zeros as stored.
    report = copy.audit(backups=[copy.backup])
    assert report.clean, report.findings
    assert sum(line.torn for line in report.lines) == 2
    (copy.backup / "backup_label").unlink()
    store(copy.backup / "global/pg_control", (copy.root / "global/pg_control").read_bytes())
    kinds = {finding.kind for finding in copy.audit(backups=[copy.backup]).findings}
    assert kinds == {FindingKind.BAD_CHECKSUM, FindingKind.FOREIGN}


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("base/5/16384.bak", "nobody encrypts it"),
        ("dump.sql", "nobody encrypts it"),
        ("core.4711", "nobody encrypts it"),
        ("backup.tar.gz", "compressed"),
        ("base.tar", "tar archive"),
    ],
)
def test_files_that_nobody_encrypts_are_findings(copy, name, word):
    path = copy.root / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"rows")
    finding = only_finding(copy.audit())
    assert (finding.kind, finding.file) == (FindingKind.UNKNOWN_FILE, path)
    assert word in finding.problem


def test_directories_of_other_versions_are_named(copy):
    link = copy.root / "pg_tblspc" / str(copy.tablespace)
    (link / "PG_14_202107181/5").mkdir(parents=True)
    finding = only_finding(copy.audit())
    assert "another version" in finding.problem


def test_what_cannot_be_audited_is_refused(
    copy, encrypted_cluster_factory, any_binaries, keystore_factory
):
    with pytest.raises(ClusterKeystoreError, match="does not belong"):
        audit(copy.cluster, keystore_factory("stranger"))
    with pytest.raises(DataDirectoryError, match="no base backup"):
        copy.audit(backups=[copy.root / "missing"])
    with pytest.raises(DataDirectoryError, match="not a base backup"):
        copy.audit(backups=[copy.archive])
    with pytest.raises(ValueError, match="canary"):
        copy.audit(canary="")
    plain = encrypted_cluster_factory.plain(any_binaries, start=False)
    with pytest.raises(ClusterKeystoreError, match="not encrypted"):
        audit(plain.cluster, copy.keystore)


def test_a_lost_key_of_the_cluster_is_no_list_of_findings(copy):
    record = copy.keystore.path / "keys" / "1663.key"
    kept = record.rename(record.with_name("away"))
    try:
        with pytest.raises(ClusterKeystoreError, match="no key for pg_default"):
            copy.audit()
    finally:
        kept.rename(record)
