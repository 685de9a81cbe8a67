"""Plaintext where an audit of stored backups might not look, and lists made to lead it astray."""

from __future__ import annotations

import os
import tarfile
import threading

import pytest

from tde.audit import FindingKind
from tde.errors import DataDirectoryError, TdeError
from tests.audit.prepared import TEXT, only_finding, store
from tests.audit.storing import COMPRESS, LABEL, files_of, store_as_tar
from tests.audit.test_backrest_repositories import repository, write  # noqa: F401
from tests.audit.test_stored_backups import segments

PLAIN = TEXT.encode() * 500


@pytest.mark.parametrize("ending", list(COMPRESS)[1:])
def test_what_stands_behind_a_compressed_stream(copy, os_user_tmp_path, ending):
    """As when a shorter file was written over an older one that was longer."""
    tars = store_as_tar(files_of(copy.backup), os_user_tmp_path / "tars")
    path = tars / f"{copy.tablespace}.tar"
    packed = COMPRESS[ending](path.read_bytes())
    path.unlink()
    path = path.with_name(f"{path.name}{ending}")
    path.write_bytes(packed + PLAIN)
    segment = max(segments(copy))
    archived = segment.with_name(f"{segment.name}{ending}")
    store(archived, COMPRESS[ending](segment.read_bytes()) + PLAIN)
    segment.unlink()
    report = copy.audit(backups=[tars], archives=[copy.archive])
    assert {finding.file for finding in report.findings} == {path, archived}


def test_a_segment_that_is_longer_than_one(copy):
    segment = max(segments(copy))
    store(segment, segment.read_bytes() + PLAIN)
    found = only_finding(copy.audit(archives=[copy.archive]))
    assert found.file == segment


CUT = COMPRESS[".gz"](PLAIN[:40000])[:-20]


@pytest.mark.parametrize(
    "content", [PLAIN, CUT, b"\x1f\x8b\x08" + PLAIN], ids=["not compressed", "cut off", "other"]
)
def test_plaintext_under_the_name_of_a_file_that_grows(copy, content):
    """A file that is being made may end early; what it has is judged, and nothing else forgiven."""
    segment = max(segments(copy))
    path = segment.with_name(f"{segment.name}.gz.partial")
    segment.unlink()
    store(path, content)
    assert {f.file for f in copy.audit(archives=[copy.archive]).findings} == {path}


def audited(copy, **arguments):
    """Audit in a thread, so that a test ends also when the audit does not."""
    done = []

    def run():
        try:
            done.append(copy.audit(**arguments).findings)
        except (OSError, TdeError) as error:
            done.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(120)
    assert done, "the audit does not end, or has ended with an error of its own"
    return done[0]


@pytest.mark.parametrize("size", [-512, -1, 1 << 62])
@pytest.mark.parametrize("ending", ["", ".gz"])
def test_a_member_of_an_impossible_size(copy, os_user_tmp_path, size, ending):
    """A negative one led back to the header, again and again."""
    header = bytearray(tarfile.TarInfo("base/1/1").tobuf(tarfile.USTAR_FORMAT))
    header[124:136] = size.to_bytes(12, "big", signed=True)
    header[124] |= 0x80  # So it is a number, and not text.
    header[148:156] = b" " * 8
    header[148:155] = b"%06o\0" % sum(header)
    tars = store_as_tar(files_of(copy.backup), os_user_tmp_path / "tars", ending)
    path = tars / f"pg_wal.tar{ending}"
    path.write_bytes(COMPRESS[ending](bytes(header) + bytes(1024)))
    assert path in {finding.file for finding in audited(copy, backups=[tars])}


def test_what_stands_between_the_members_of_an_archive(copy, os_user_tmp_path):
    files = {**files_of(copy.backup), f"pg_tblspc/{copy.tablespace}/1": b"x" * 16}
    tars = store_as_tar(files, os_user_tmp_path / "tars")
    path = tars / f"{copy.tablespace}.tar"
    content = bytearray(path.read_bytes())
    at = content.index(b"1\0" + bytes(90)) + 512
    content[at + 16 : at + 400] = PLAIN[:384]
    path.write_bytes(content)
    findings = copy.audit(backups=[tars]).findings
    assert FindingKind.DAMAGED in {f.kind for f in findings if f.file == path}


@pytest.mark.parametrize("name", ["16999.tar.gz", "base.tar.gz.old", "rows.sql", "more/rows"])
def test_what_lies_beside_archives(copy, os_user_tmp_path, name):
    tars = store_as_tar(files_of(copy.backup), os_user_tmp_path / "tars", ".gz")
    stray = tars / name
    stray.parent.mkdir(exist_ok=True)
    stray.write_bytes(PLAIN)
    assert stray in {f.file for f in copy.audit(backups=[tars]).findings}


STRAYS = [
    "backup/main/20261127-030000F.old/pg_data/base/5/16384",
    "backup/main/rows.sql",
    "backup/main/base.tar.gz",
    "archive/main/9.6-1/0000000100000000/000000010000000000000001",
    "archive/main/rows.sql",
    "archive/main/15-1.orig/0000000100000000/000000010000000000000001",
]


@pytest.mark.parametrize("name", STRAYS)
def test_what_no_list_of_a_stanza_names(copy, repository, name):  # noqa: F811
    made = repository()
    path = write(made, copy)
    stray = path / name
    stray.parent.mkdir(parents=True, exist_ok=True)
    stray.write_bytes(PLAIN)
    report = copy.audit(backups=[path])
    assert any(f.file == stray or f.file in stray.parents for f in report.findings)


FILES = [
    *("backup/main/backup.info", "archive/main/archive.info"),
    f"backup/main/{LABEL}/backup.manifest",
    f"backup/main/{LABEL}/pg_data/PG_VERSION.gz",
    f"backup/main/{LABEL}/pg_data/base/1/1259.gz",
]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("what", ["pipe", "device"])
def test_a_pipe_or_a_device_in_a_repository(copy, repository, name, what):  # noqa: F811
    """The audit would wait for the one for ever, and read the other until memory is full."""
    path = write(repository(), copy)
    (path / name).unlink()
    if what == "pipe":
        os.mkfifo(path / name)
    else:
        (path / name).symlink_to("/dev/zero")
    found = audited(copy, backups=[path])
    assert str(path / name) in str(found) or f"{LABEL}" in str(found)


def test_a_pipe_in_the_place_of_an_archive(copy, os_user_tmp_path):
    tars = store_as_tar(files_of(copy.backup), os_user_tmp_path / "tars")
    path = tars / "pg_wal.tar"
    path.unlink()
    os.mkfifo(path)
    assert path in {finding.file for finding in audited(copy, backups=[tars])}


LINES = [
    '[target:file]\npg_data/x={"size":"x"}\n',
    "[target:file]\npg_data/x=3\n",
    '[target:file]\npg_data/x={"size":1,"bni":1,"bno":-5,"repo-size":10}\n',
    '[target:file]\npg_data/x={"size":1,"bni":1,"bno":5,"repo-size":-10}\n',
    '[target:file]\npg_data/x={"size":1,"bni":"../../../../x"}\n',
    '[target:file]\npg_data/x={"size":1,"reference":"../../other"}\n',
    '[target:file]\npg_data/../../../../other/x={"size":1}\n',
    '[target:file]\npg_data/PG_VERSION={"size":null}\n',
    "[backup:target]\npg_tblspc/../x={}\n",
    "[backup:target]\npg_tblspc/x={}\n",
    '[backup:option]\noption-compress-type=["none"]\n',
    "[x\nx=" + "[" * 100000 + "\n",
    "[target:file]\npg_data/" + "a" * 5000 + '={"size":1}\n',
    '[target:file]\npg_data/a\0b={"size":1}\n',
]


@pytest.mark.parametrize("line", LINES, ids=range(len(LINES)))
def test_a_manifest_that_cannot_be(copy, repository, line):  # noqa: F811
    """One that is damaged, or that somebody has written, ends no audit of all the others."""
    made = repository()
    path = write(made, copy)
    with (made.backup / "backup.manifest").open("a") as file:
        file.write(line)
    report = copy.audit(backups=[path])
    assert report.findings
    assert any(line.place.startswith("archive") and line.verified for line in report.lines)


INFOS = [
    *("1=3", '1={"db-system-id":"x"}', '1={"db-id":null}'),
    "x=" + "[" * 100000,
]


@pytest.mark.parametrize("line", INFOS, ids=range(len(INFOS)))
def test_a_list_of_a_stanza_that_cannot_be(copy, repository, line):  # noqa: F811
    path = write(repository(), copy)
    with (path / "backup/main/backup.info").open("a") as file:
        file.write(f"[db:history]\n{line}\n")
    with pytest.raises(DataDirectoryError, match="no list of pgBackRest"):
        copy.audit(backups=[path])


BESIDE_BARMANS = ["base/rows.sql", "base/20261128T030000/rows.sql", "base/20261128T030000/x/1"]


@pytest.mark.parametrize("name", BESIDE_BARMANS)
def test_what_lies_between_backups_of_barman(copy, os_user_tmp_path, name):
    server = os_user_tmp_path / "main"
    backup = server / "base/20261128T030000"
    (server / "wals").mkdir(parents=True)
    backup.mkdir(parents=True)
    copy.backup.rename(backup / "data")
    (backup / "backup.info").write_text("status=DONE\n")
    assert copy.audit(backups=[server]).findings == ()
    stray = server / name
    stray.parent.mkdir(exist_ok=True)
    stray.write_bytes(PLAIN)
    found = only_finding(copy.audit(backups=[server]))
    assert found.file in (stray, stray.parent)
    stray = server / "rows.sql"
    stray.write_bytes(PLAIN)
    assert [warning.file for warning in copy.audit(backups=[server]).warnings] == [stray]
