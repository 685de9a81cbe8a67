"""Backups in tar archives and archives of compressed WAL: what is in them, and what is wrong."""

from __future__ import annotations

import io
import tarfile
import tracemalloc

import pytest

from tde.audit import FileClass, FindingKind
from tde.audit.unpacking import Compression, unpacked
from tde.errors import DataDirectoryError
from tde.postgres import audit
from tests.audit.prepared import PAGE, TEXT, link_tree, only_finding, store
from tests.audit.storing import COMPRESS, files_of, store_as_tar
from tests.postgres.cluster_copies import base_backup

ENDINGS = list(COMPRESS)
# Those of pg_basebackup; Python is slow in making the others.
OF_TARS = ["", ".gz", ".lz4", ".zst"]


def counts(report, kind):
    lines = [line for line in report.lines if line.place.startswith(kind)]
    return {(line.file_class, line.tablespace): (line.files, line.verified) for line in lines}


def plain_page(copy):
    path = copy.root / copy.heap
    return copy.decrypted(path, copy.heap)[60 * PAGE : 61 * PAGE]


def with_page(content, block, page):
    return content[: block * PAGE] + page + content[(block + 1) * PAGE :]


@pytest.mark.parametrize("ending", OF_TARS)
def test_a_tar_backup_is_judged_like_a_plain_one(copy, os_user_tmp_path, ending):
    tars = store_as_tar(files_of(copy.backup), os_user_tmp_path / "tars", ending)
    report = copy.audit(backups=[tars], canary=TEXT)
    assert report.findings == ()
    assert counts(report, "backup") == counts(copy.audit(backups=[copy.backup]), "backup")


@pytest.mark.parametrize("ending", OF_TARS[:2])
def test_plaintext_in_a_tar_is_named_with_its_member(copy, os_user_tmp_path, ending):
    files = files_of(copy.backup)
    files[copy.heap] = with_page(files[copy.heap], 60, plain_page(copy))
    tars = store_as_tar(files, os_user_tmp_path / "tars", ending)
    found = only_finding(copy.audit(backups=[tars]))
    assert (found.kind, found.block, found.member) == (FindingKind.PLAIN_PAGE, 60, copy.heap)
    assert found.file == tars / f"base.tar{ending}"
    assert f"base.tar{ending} ({copy.heap}): block 60" in found.problem
    findings = copy.audit(backups=[tars], canary=TEXT).findings
    assert {f.kind for f in findings} == {FindingKind.CANARY, FindingKind.PLAIN_PAGE}


def test_what_pg_basebackup_makes(module_cluster_factory, any_binaries, os_user_tmp_path):
    made = module_cluster_factory(any_binaries, name="of_tars", initdb_args=["--wal-segsize=1"])
    made.query(f"CREATE TABLE t AS SELECT '{TEXT}' FROM generate_series(1, 1000)")
    # Not every build has zstd.
    built = made.query("SELECT setting FROM pg_config WHERE name = 'CONFIGURE'")[0][0]
    other = "zstd" if "zstd" in built else "gzip"
    for number, options in enumerate(
        (["--compress=1"], [f"--compress=server-{other}", "--wal-method=fetch"])
    ):
        backup = os_user_tmp_path / str(number)
        base_backup(made, backup, "--format=tar", *options)
        report = audit(made.cluster, made.keystore, backups=[backup], canary=TEXT)
        assert report.findings == ()
        verified = [line.verified for line in report.lines if line.place.startswith("backup")]
        assert all(verified)
        assert len(verified) == 3


def test_a_base_archive_without_an_end_is_no_backup(copy, os_user_tmp_path):
    tars = store_as_tar(files_of(copy.backup), os_user_tmp_path / "tars", ".gz")
    path = tars / "base.tar.gz"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DataDirectoryError, match="no whole base backup"):
        copy.audit(backups=[tars])


DAMAGES = {
    "holds": lambda tar: tar[: len(tar.rstrip(b"\0")) - 1000],
    "has no end": lambda tar: tar[: -(-len(tar.rstrip(b"\0")) // 512) * 512],
    "behind the end": lambda tar: tar + TEXT.encode() * 100,
    "no header": lambda tar: tar[:257] + b"x" + tar[258:],
}


@pytest.mark.parametrize("problem", DAMAGES)
def test_an_archive_that_is_damaged(copy, os_user_tmp_path, problem):
    tars = store_as_tar(files_of(copy.backup), os_user_tmp_path / "tars")
    path = tars / f"{copy.tablespace}.tar"
    path.write_bytes(DAMAGES[problem](path.read_bytes()))
    findings = copy.audit(backups=[tars]).findings
    assert {(finding.kind, finding.file) for finding in findings} == {(FindingKind.DAMAGED, path)}
    assert any(problem in finding.problem for finding in findings)


def test_a_member_of_an_unknown_kind_is_an_error(copy, os_user_tmp_path):
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w", format=tarfile.PAX_FORMAT) as tar:
        info = tarfile.TarInfo("x" * 200)
        info.size = 10
        tar.addfile(info, io.BytesIO(b"0123456789"))
    tars = store_as_tar(files_of(copy.backup), os_user_tmp_path / "tars")
    (tars / "pg_wal.tar").write_bytes(made.getvalue())
    found = only_finding(copy.audit(backups=[tars]))
    assert found.kind is FindingKind.DAMAGED
    assert "of a kind that is not known" in found.problem


@pytest.mark.parametrize("ending", [".gz", ".zst"])
def test_a_tablespace_whose_archive_is_cut_off(copy, os_user_tmp_path, ending):
    tars = store_as_tar(files_of(copy.backup), os_user_tmp_path / "tars", ending)
    path = tars / f"{copy.tablespace}.tar{ending}"
    path.write_bytes(path.read_bytes()[:-2000])
    report = copy.audit(backups=[tars])
    assert {finding.kind for finding in report.findings} == {FindingKind.DAMAGED}
    assert {finding.file for finding in report.findings} == {path}


def segments(copy):
    return [path for path in copy.archive.iterdir() if len(path.name) == 24]


def test_compressed_wal_is_judged(copy):
    expected = counts(copy.audit(archives=[copy.archive]), "archive")
    # Under another name, as most do, and as Barman does under the same.
    ways = [(ending, name) for ending in ENDINGS[1:] for name in (ending, "")]
    found = sorted(segments(copy))
    assert len(found) > 5
    for path, (ending, name) in zip(found, ways, strict=False):
        content = COMPRESS[ending](path.read_bytes())
        path.unlink()
        store(path.with_name(path.name + name), content)
    report = copy.audit(archives=[copy.archive], canary=TEXT)
    assert report.findings == ()
    assert counts(report, "archive") == expected


def test_a_directory_of_barman_is_judged_with_its_wal(copy, os_user_tmp_path):
    server = os_user_tmp_path / "main"
    link_tree(copy.backup, server / "base/20261128T030000/data")
    link_tree(copy.archive, server / "wals/0000000100000000")
    # Before 3.13, and since.
    for name in ("xlog.db", "main-xlog.db"):
        (server / "wals" / name).write_text("000000010000000000000001\t1\t1.0\tNone\n")
    report = copy.audit(backups=[server])
    assert (report.findings, report.warnings) == ((), ())
    assert all(line.verified for line in report.lines if line.place.endswith("/wals"))
    stray = server / "wals/rows.db"
    stray.write_text(TEXT)
    found = only_finding(copy.audit(backups=[server]))
    assert (found.kind, found.file) == (FindingKind.UNKNOWN_FILE, stray)


def test_damage_and_plaintext_in_compressed_wal(copy):
    stored = []
    for path, ending in zip(sorted(segments(copy)), ENDINGS[1:], strict=False):
        content = path.read_bytes()
        path.unlink()
        stored.append(path.with_name(path.name + ending))
        plain = TEXT.encode() * 400
        store(stored[-1], COMPRESS[ending](plain + content[len(plain) :]))
    findings = copy.audit(archives=[copy.archive]).findings
    assert {(f.kind, f.file) for f in findings} == {(FindingKind.PLAINTEXT, p) for p in stored}
    for path in stored:
        content = path.read_bytes()
        store(path, content[: len(content) // 2])
    findings = copy.audit(archives=[copy.archive]).findings
    assert {f.file for f in findings if f.kind is FindingKind.DAMAGED} == {*stored}
    path = stored[0]
    store(path, path.read_bytes()[:5] + bytes(100))
    findings = copy.audit(archives=[copy.archive]).findings
    assert FindingKind.DAMAGED in {f.kind for f in findings if f.file == path}


def test_a_segment_that_is_still_being_received(copy):
    path = max(segments(copy))
    content = COMPRESS[".gz"](path.read_bytes())
    path.unlink()
    store(path.with_name(f"{path.name}.gz.partial"), content[: len(content) // 2])
    report = copy.audit(archives=[copy.archive])
    assert report.findings == ()
    (line,) = [line for line in report.lines if line.place.startswith("archive")]
    assert line.file_class is FileClass.WAL


@pytest.mark.parametrize("ending", ENDINGS[1:])
def test_what_grows_when_it_is_unpacked_does_not_fill_memory(tmp_path, ending):
    size = 64 << 20
    path = tmp_path / "file"
    path.write_bytes(COMPRESS[ending](bytes(size)))
    tracemalloc.start()
    try:
        with unpacked(path, Compression(ending[1:])) as stream:
            read = 0
            while piece := stream.read(1 << 20):
                read += len(piece)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert read == size
    assert peak < 16 << 20
