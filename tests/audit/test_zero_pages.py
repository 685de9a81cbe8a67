"""Rows removed without a key: a page of zeros before others, or marked all-visible."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tde import Algorithm, FileIdentity, PageCipher, _core
from tde.audit import FindingKind
from tde.keystore import KeyOwner
from tde.postgres import AuditReport, audit
from tests.conftest import RunningCluster
from tests.keystore.cheap_passphrase import PASSPHRASE

PAGE = 8192
SEGMENT_BLOCKS = 131072
# 32 rows in a page, so 4 pages.
ROWS = "SELECT g AS id, repeat('x', 210) AS x FROM generate_series(1, 100) g"


@pytest.fixture
def made(encrypted_cluster_factory, binaries) -> RunningCluster:
    made = encrypted_cluster_factory(binaries, options={"autovacuum": "off"})
    made.query(f"CREATE TABLE victim AS {ROWS}")
    return made


def path_of(made: RunningCluster, relation: str = "victim") -> Path:
    name = made.query(f"SELECT pg_relation_filepath('{relation}')")[0][0]
    return made.data_directory / str(name)


def clear(path: Path, block: int) -> None:
    with path.open("r+b") as file:
        file.seek(block * PAGE)
        file.write(bytes(PAGE))


def look(made: RunningCluster) -> AuditReport:
    assert made.keystore is not None
    return audit(made.cluster, made.keystore)


def run_audit(made: RunningCluster, *arguments: str) -> subprocess.CompletedProcess[str]:
    assert made.keystore is not None
    return subprocess.run(
        [
            Path(sys.executable).with_name("tde"),
            *("pg", "audit", "-D", made.data_directory, "--passphrase-fd", "0", *arguments),
            *("--bindir", made.cluster.binaries.bindir),
        ],
        input=PASSPHRASE.decode(),
        capture_output=True,
        text=True,
        env={**os.environ, "COLUMNS": "200"},
        timeout=120,
        check=False,
    )


def test_rows_that_everybody_saw_are_gone(made):
    """The attack: a page of zeros passes its checksum, and a scan passes over it."""
    made.query("VACUUM victim")
    path = path_of(made)
    made.cluster.stop()
    healthy = look(made)
    assert healthy.clean
    assert [w for w in healthy.warnings if w.file == path] == []
    clear(path, 1)
    (found,) = look(made).findings
    assert (found.kind, found.file) == (FindingKind.LOST_PAGES, path)
    assert (found.block, found.blocks) == (1, 1)
    assert "visibility map" in found.problem
    assert "Restore the file" in found.remedy
    shown = run_audit(made)
    assert shown.returncode == 1
    assert f"lost pages: {path}: block 1 is zeros" in shown.stdout
    assert "1 FINDING" in shown.stdout
    # The last page, behind which nothing is left that could give it away.
    clear(path, 2)
    clear(path, 3)
    (found,) = look(made).findings
    assert (found.block, found.blocks) == (1, 3)
    made.start()
    assert made.query("SELECT count(*) FROM (SELECT x FROM victim) AS x") == [(32,)]


def test_a_page_in_the_middle_that_nothing_has_marked(made):
    path = path_of(made)
    made.query("CHECKPOINT")
    made.cluster.stop()
    clear(path, 1)
    report = look(made)
    (warning,) = [w for w in report.warnings if w.file == path]
    assert (warning.kind, warning.block, warning.blocks) == (FindingKind.ZERO_PAGES, 1, 1)
    assert "pages behind it" in warning.problem
    assert report.clean
    shown = run_audit(made)
    assert shown.returncode == 0
    assert f"zero pages: {path}: block 1 is zeros" in shown.stdout
    document = json.loads(run_audit(made, "--json").stdout)
    assert document["clean"] is True
    assert str(path) in {warning["file"] for warning in document["warnings"]}
    # Without the rest of the relation it is a page that was never written.
    clear(path, 2)
    clear(path, 3)
    assert [w for w in look(made).warnings if w.file == path] == []


def test_zeros_in_one_segment_file_before_rows_in_the_next(made):
    path = path_of(made)
    made.query("CHECKPOINT")
    made.cluster.stop()
    stored = path.read_bytes()
    name = path.relative_to(made.data_directory)
    identity = FileIdentity.from_path(f"{name}.1")
    key = made.keystore.unwrap_key(KeyOwner.tablespace(1663))
    whole = FileIdentity.from_path(str(name))
    with PageCipher(key, Algorithm.AES256) as cipher:
        plain = bytearray(cipher.decrypt_pages(stored, identity=whole.identity)[:PAGE])
        # The checksum depends on the number of the block.
        plain[8:10] = _core.page_checksum(bytes(plain), SEGMENT_BLOCKS).to_bytes(2, "little")
        moved = cipher.encrypt_pages(
            bytes(plain), identity=identity.identity, first_block=identity.first_block
        )
    os.truncate(path, SEGMENT_BLOCKS * PAGE)
    path.with_name(f"{path.name}.1").write_bytes(moved)
    report = look(made)
    assert report.clean, report.findings
    (warning,) = [w for w in report.warnings if w.file == path]
    assert (warning.block, warning.blocks) == (4, SEGMENT_BLOCKS - 4)


def test_zeros_of_a_healthy_cluster(made):
    """A hash index begins with buckets of zeros, and maps have zeros by design."""
    made.query("CREATE TABLE big AS SELECT g AS id FROM generate_series(1, 50000) g")
    made.query("CREATE INDEX hashed ON big USING hash (id)")
    made.query("VACUUM big")
    made.query("CREATE UNLOGGED TABLE unlogged AS SELECT 1 AS id")
    index = path_of(made, "hashed")
    made.cluster.stop()
    report = look(made)
    assert report.clean
    assert report.warnings == ()
    assert index.exists()


def test_a_running_server_has_new_pages_in_memory(made):
    """So what the audit says is softened, and a page that is there again says nothing."""
    made.query("VACUUM victim")
    made.query("CHECKPOINT")
    path = path_of(made)
    clear(path, 1)
    report = look(made)
    assert report.clean
    (warning,) = [w for w in report.warnings if w.file == path]
    assert "visibility map" in warning.problem
    assert "CHECKPOINT" in warning.remedy
    made.query("UPDATE victim SET x = repeat('y', 210)")
    made.query("CHECKPOINT")
    assert [w for w in look(made).warnings if w.file == path and w.block == 1] == []
