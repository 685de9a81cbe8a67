"""What modules of contrib write beside relations is known: no finding, and listed with a reason.

Of the libraries of contrib from 15 to 19 these import functions that write files: pg_prewarm,
pg_stat_statements, basic_archive, from 19 pg_stash_advice, until 16 adminpack, which writes what
it is told to and is refused other names, and basebackup_to_shell, which writes to a program.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tde.postgres import PostgresBinaries, audit
from tests.postgres.cluster_copies import make_directory

# Which file each writes, and when the module is loaded at the start.
WRITTEN = {
    "pg_prewarm": "autoprewarm.blocks",
    "pg_stat_statements": "pg_stat/pg_stat_statements.stat",
    "pg_stash_advice": "pg_stash_advice.tsv",
}


def installed(binaries: PostgresBinaries) -> list[str]:
    command = [binaries.program("pg_config"), "--pkglibdir"]
    found = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    return [name for name in WRITTEN if (Path(found) / f"{name}.so").exists()]


def test_an_audit_knows_the_files_of_contrib(encrypted_cluster_factory, binaries, os_user_tmp_path):
    modules = installed(binaries)
    if not modules:
        pytest.skip("contrib is not installed")
    made = encrypted_cluster_factory(binaries, start=False)
    archive = make_directory(made, os_user_tmp_path / "archive")
    made.start(
        {
            "shared_preload_libraries": ",".join(modules),
            "archive_mode": "on",
            "archive_library": "basic_archive",
            "basic_archive.archive_directory": str(archive),
        }
    )
    for module in modules:
        made.query(f"CREATE EXTENSION {module}")
    if "pg_prewarm" in modules:
        made.query("SELECT autoprewarm_dump_now()")
        assert (made.data_directory / WRITTEN["pg_prewarm"]).exists()
    if "pg_stash_advice" in modules:
        made.query("SELECT pg_create_advice_stash('kept')")
    made.query("SELECT pg_switch_wal()")
    assert audit(made.cluster, made.keystore, archives=[archive]).findings == ()
    made.cluster.stop()
    report = audit(made.cluster, made.keystore, archives=[archive])
    assert report.findings == ()
    assert report.warnings == ()
    names = {files.files for files in report.plain}
    assert all(files.reason for files in report.plain)
    for module in modules:
        assert (made.data_directory / WRITTEN[module]).exists()
        last = WRITTEN[module].rpartition("/")[2]
        listed = last if last in " ".join(names) else "pg_stat/*.stat"
        assert any(f"`{listed}`" in name for name in names), module
