"""Repositories of pgBackRest, made by hand; tests/tools has those that pgBackRest makes."""

from __future__ import annotations

import pytest

from tde.audit import FindingKind
from tde.postgres.facts import MAJOR_VERSIONS
from tde.postgres.server.control import read_control_data
from tests.audit.prepared import PAGE, TEXT, only_finding
from tests.audit.storing import LABEL, Repository
from tests.audit.test_stored_backups import counts, plain_page, with_page

KINDS = [("", ""), (".lz4", "bundle"), (".gz", "raw")]


def system_of(copy):
    return read_control_data(copy.root, copy.cluster.binaries, None).system_identifier


@pytest.fixture
def repository(copy, os_user_tmp_path):
    def make(ending=".gz", bundle=""):
        return Repository(copy, os_user_tmp_path / "repository", ending, bundle=bundle)

    return make


def write(repository, copy):
    """Write the lists; those of a bundle with raw streams say so."""
    raw = (
        any("bni" in entry for entry in repository.entries.values()) and repository.ending == ".gz"
    )
    return repository.write_lists(system_of(copy), **({"backup-bundle-raw": True} if raw else {}))


@pytest.mark.parametrize(("ending", "bundle"), KINDS)
def test_a_repository_is_judged_like_a_plain_backup(copy, repository, ending, bundle):
    path = write(repository(ending, bundle), copy)
    report = copy.audit(backups=[path], canary=TEXT)
    assert (report.findings, report.warnings) == ((), ())
    plain = copy.audit(backups=[copy.backup], archives=[copy.archive])
    # Of empty files there is nothing in a bundle.
    verified = {key: blocks for key, (_, blocks) in counts(plain, "backup").items()}
    assert {key: blocks for key, (_, blocks) in counts(report, "backup").items()} == verified
    assert counts(report, "archive") == counts(plain, "archive")


@pytest.mark.parametrize(("ending", "bundle"), [(".gz", ""), (".zst", "bundle")])
def test_plaintext_in_a_repository(copy, repository, ending, bundle):
    made = repository(ending, bundle)
    content = (copy.backup / copy.heap).read_bytes()
    name = f"pg_data/{copy.heap}"
    made.add(name, with_page(content, 60, plain_page(copy)), bundle=bundle)
    path = write(made, copy)
    # What was there before is in the bundle, and in no list.
    page, *rest = sorted(copy.audit(backups=[path]).findings, key=lambda f: f.block is None)
    assert (page.kind, page.block) == (FindingKind.PLAIN_PAGE, 60)
    assert page.member == (name if bundle else "")
    assert page.file == made.backup / ("bundle/1" if bundle else f"{name}{ending}")
    assert [finding.kind for finding in rest] == [FindingKind.NOT_JUDGED] * bool(bundle)


def test_plaintext_in_the_archive_of_a_repository(copy, repository):
    made = repository()
    segment = next(p for p in copy.archive.iterdir() if len(p.name) == 24)
    for path in (made.archive / segment.name[:16]).glob(f"{segment.name}-*"):
        path.unlink()
    content = segment.read_bytes()
    stored = made.push(segment.name, TEXT.encode() * 200 + content[len(TEXT) * 200 :])
    findings = copy.audit(backups=[write(made, copy)]).findings
    assert {(f.kind, f.file) for f in findings} == {(FindingKind.PLAINTEXT, stored)}


def test_what_is_not_what_was_stored(copy, repository):
    made = repository()
    path = made.backup / f"pg_data/{copy.heap}.gz"
    content = (copy.backup / copy.heap).read_bytes()
    # An older version of a page is ciphertext that decrypts; only the list knows better.
    path.write_bytes(made.compress(with_page(content, 60, bytes(PAGE))))
    found = only_finding(copy.audit(backups=[write(made, copy)]))
    assert (found.kind, found.file) == (FindingKind.DAMAGED, path)
    assert "another SHA-1" in found.problem
    path.write_bytes(made.compress(content[:PAGE]))
    assert "8,192 bytes where" in only_finding(copy.audit(backups=[made.path])).problem
    path.unlink()
    assert "is missing" in only_finding(copy.audit(backups=[made.path])).problem


def test_what_the_list_does_not_name(copy, repository):
    made = repository()
    path = write(made, copy)
    stray = made.backup / "pg_data/base/rows.txt"
    stray.write_text(TEXT)
    found = only_finding(copy.audit(backups=[path]))
    assert (found.kind, found.file) == (FindingKind.UNKNOWN_FILE, stray)


def test_increments_of_blocks_are_said_to_be_not_judged(copy, repository):
    made = repository()
    made.entries[f"pg_data/{copy.heap}"] |= {"bi": 1, "bim": 10}
    plain = made.backup / f"pg_data/{copy.heap}.gz"
    plain.rename(plain.with_suffix(".pgbi"))
    found = only_finding(copy.audit(backups=[write(made, copy)]))
    assert found.kind is FindingKind.NOT_JUDGED
    assert "1 files that are stored as increments" in found.problem


def test_an_encrypted_repository_is_said_to_be_not_judged(copy, repository):
    made = repository()
    path = write(made, copy)
    for name in ("backup/main/backup.info", "archive/main/archive.info"):
        (path / name).write_bytes(b"Salted__" + bytes(100))
    report = copy.audit(backups=[path])
    assert {f.kind for f in report.findings} == {FindingKind.NOT_JUDGED}
    assert "repo-cipher-type" in report.findings[0].problem
    assert len(report.findings) == 2


def test_the_stanza_of_another_cluster_is_a_warning(copy, repository):
    path = repository().write_lists(1)
    report = copy.audit(backups=[path])
    assert report.clean
    (warning,) = report.warnings
    assert warning.kind is FindingKind.NOT_JUDGED
    assert "of another cluster" in warning.problem


def test_an_archive_is_judged_as_wal_of_the_version_in_its_name(copy, repository):
    """A stanza that was upgraded has the WAL of the older version beside that of the new one."""
    made = repository()
    path = write(made, copy)
    unknown = min(MAJOR_VERSIONS) - 1
    for name, major in ((f"{unknown}-1", unknown), ("9.6-1", 9)):
        made.archive = made.archive.rename(made.archive.with_name(name))
        found = only_finding(copy.audit(backups=[path]))
        assert (found.kind, found.file) == (FindingKind.NOT_JUDGED, made.archive)
        assert f"WAL of PostgreSQL {major}, which tde does not know" in found.problem
    other = next(major for major in MAJOR_VERSIONS if major != made.major)
    made.archive.rename(made.archive.with_name(f"{other}-1"))
    kinds = {finding.kind for finding in copy.audit(backups=[path]).findings}
    assert kinds == {FindingKind.FOREIGN}


def test_a_backup_that_was_broken_off_is_said(copy, repository):
    made = repository()
    path = write(made, copy)
    (made.backup / "backup.manifest").unlink()
    found = only_finding(copy.audit(backups=[path]))
    assert (found.kind, found.file) == (FindingKind.NOT_JUDGED, made.backup)
    assert "no backup.manifest" in found.problem


def test_an_incremental_backup_takes_the_rest_from_the_other(copy, repository):
    made = repository()
    path = write(made, copy)
    full = dict(made.entries)
    name = f"pg_data/{copy.heap}"
    made.entries = {key: {**entry, "reference": LABEL} for key, entry in full.items()}
    made.backup = made.backup.with_name(f"{LABEL}_20261128-040000I")
    made.add(name, (copy.backup / copy.heap).read_bytes())
    write(made, copy)
    report = copy.audit(backups=[path])
    assert report.findings == ()
    second = [line for line in report.lines if line.place == f"backup {made.backup}"]
    assert sum(line.files for line in second) == 1
    lost = path / f"backup/main/{LABEL}/pg_data/{copy.other}.gz"
    lost.unlink()
    # Both backups lack it.
    assert [f.file for f in copy.audit(backups=[path]).findings] == [lost]


def test_links_to_files_of_another_backup_are_judged(copy, repository):
    made = repository()
    path = write(made, copy)
    name = f"pg_data/{copy.heap}"
    first = made.backup
    made.entries = {key: {**entry, "reference": LABEL} for key, entry in made.entries.items()}
    made.backup = first.with_name(f"{LABEL}_20261128-040000I")
    # repo-hardlink makes such links; what is under the name counts, link or not.
    made.add(name, with_page((copy.backup / copy.heap).read_bytes(), 60, plain_page(copy)))
    made.entries[name]["reference"] = LABEL
    write(made, copy)
    found = only_finding(copy.audit(backups=[path]))
    assert (found.kind, found.file) == (FindingKind.PLAIN_PAGE, made.backup / f"{name}.gz")


def test_a_segment_that_pgbackrest_is_writing(copy, repository):
    made = repository()
    segment = max(made.archive.rglob("0*.gz"))
    content = segment.read_bytes()
    segment.unlink()
    segment.with_name(f"{segment.name}.pgbackrest.tmp").write_bytes(content[: len(content) // 2])
    assert copy.audit(backups=[write(made, copy)]).findings == ()
