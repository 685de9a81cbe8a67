"""pgBackRest: backups of running and of stopped servers, restored in every way, without keys."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tde.audit import FindingKind
from tde.audit.backrest import Manifest, read_manifest
from tde.postgres.cluster.tool_settings import BackupTool, tool_settings
from tests.postgres.canaries import CANARY, files_with
from tests.tools.site import Site, require_tools, wait_for

TEXT = CANARY.decode()
FILL = "INSERT INTO t SELECT g, '{text}' FROM generate_series({first}, {last}) g"
HEADER_MESSAGES = (
    "first page header in WAL file is expected to be in long format",
    "unexpected WAL magic",
)
EVERYTHING = "SELECT count(*) || ' ' || sum(g) FROM t"


class Stanza:
    """A stanza with the settings of docs/pgbackrest.md, and its only server."""

    def __init__(self, site: Site, *options: str) -> None:
        self.site = site
        self.repository = site.make("repository")
        self.configuration = site.make("etc") / "pgbackrest.conf"
        lines = [
            "[global]",
            f"repo1-path={self.repository}",
            f"log-path={site.make('log')}",
            f"lock-path={site.make('lock')}",
            f"spool-path={site.make('spool')}",
            *("start-fast=y", "archive-timeout=30", "log-level-console=warn"),
            *tool_settings(BackupTool.PGBACKREST, None).lines()[1:],
            *options,
            "[main]",
            f"pg1-path={site.directory / 'data'}",
            f"pg1-socket-path={site.directory}",
        ]
        self.configuration.write_text("".join(f"{line}\n" for line in lines))

    def run(self, *command: object, exit_code: int | None = 0) -> str:
        where = (f"--config={self.configuration}", "--stanza=main")
        return self.site.tool("pgbackrest", *where, *command, exit_code=exit_code)

    def restore(self, name: str, *options: object) -> Path:
        target = self.site.directory / name
        if not target.exists():
            self.site.make(name)
        spaces = f"--tablespace-map-all={target}.spaces"
        self.run("restore", f"--pg1-path={target}", spaces, *options)
        self.site.configure(target, "archive_mode = off", "port = 5440")
        return target

    def backups(self) -> list[Path]:
        return sorted((self.repository / "backup/main").glob("2*"))

    def newest(self) -> str:
        return self.backups()[-1].name


def version() -> tuple[int, ...]:
    shown = subprocess.run(["pgbackrest", "version"], capture_output=True, text=True, check=True)
    match = re.search(r"(\d+)\.(\d+)", shown.stdout)
    assert match is not None, shown.stdout
    return (int(match[1]), int(match[2]))


@pytest.fixture
def stanza(site):
    return started(site)


def started(site: Site, *options: str) -> Stanza:
    """Start a server with rows, whose WAL a stanza archives."""
    require_tools("pgbackrest")
    stanza = Stanza(site, *options)
    where = f"--config={stanza.configuration} --stanza=main"
    data = site.init(
        "data", "archive_mode = on", f"archive_command = 'pgbackrest {where} archive-push %p'"
    )
    try:
        stanza.run("stanza-create", "--no-online")
    except AssertionError as problem:
        if "unexpected control version" in str(problem):
            pytest.skip("this pgBackRest does not know this version of PostgreSQL")
        raise
    site.start(data)
    space = site.make("space")
    site.sql("CREATE TABLE t (g int, x text)")
    site.sql(f"CREATE TABLESPACE space LOCATION '{space}'")
    site.sql("CREATE TABLE s TABLESPACE space AS SELECT generate_series(1, 1000) AS g")
    site.sql(FILL.format(text=TEXT, first=1, last=5000))
    return stanza


def rows_after_recovery(site: Site, data: Path) -> str:
    site.start(data)
    wait_for("recovery", lambda: site.sql("SELECT pg_is_in_recovery()", 5440) == "f")
    rows = site.sql(EVERYTHING, 5440)
    assert site.sql("SELECT count(*) FROM s", 5440) == "1000"
    site.stop(data)
    return rows


@pytest.mark.slow
def test_backups_and_restores(stanza):
    site = stanza.site
    data = site.directory / "data"
    stanza.run("check")
    shown = stanza.run("backup", "--type=full")
    assert "WARN: invalid page" not in shown
    site.sql(FILL.format(text=TEXT, first=5001, last=6000))
    site.sql("CHECKPOINT")
    stanza.run("backup", "--type=incr")
    online = stanza.newest()
    site.sql(FILL.format(text=TEXT, first=6001, last=7000))
    before = site.sql(EVERYTHING)
    site.sql("SELECT pg_create_restore_point('here')")
    site.sql("DELETE FROM t WHERE g <= 100")
    after = site.sql(EVERYTHING)
    site.stop(data)

    # Of the stopped server; the state is hidden in the backup, and shown to the server again.
    stanza.run("backup", "--type=full", "--no-online")
    cold = stanza.newest()
    restored = stanza.restore("cold", f"--set={cold}", "--type=none")
    assert site.state(restored) == "in production"
    assert "shut down" in site.programs.run("pg_controldata", restored)
    assert rows_after_recovery(site, restored) == after
    log = Path(f"{restored}.log").read_text()
    assert "database system was shut down at" in log
    assert "not properly shut down" not in log

    to_here = ("--type=name", "--target=here", "--target-action=promote")
    restored = stanza.restore("online", f"--set={online}", *to_here)
    assert rows_after_recovery(site, restored) == before
    # What was shut down is brought to another state by copying what differs.
    stanza.restore("online", f"--set={online}", "--delta")
    assert rows_after_recovery(site, restored) == after
    stanza.restore("online", f"--set={cold}", "--delta", "--type=none")
    assert rows_after_recovery(site, restored) == after
    assert site.audit(data, stanza.repository).findings == ()
    assert files_with(CANARY, stanza.repository, restored) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("compression", "bundle"),
    [
        *(("none", ""), ("gz", ""), ("bz2", "")),
        *((kind, "--repo1-bundle") for kind in ("gz", "lz4", "zst")),
    ],
)
def test_the_audit_reads_what_is_stored(site, compression, bundle):
    stanza = started(site, f"compress-type={compression}", "archive-async=y")
    data = site.directory / "data"
    options = [bundle] if bundle else []
    for kind in ("full", "diff", "incr"):
        stanza.run("backup", f"--type={kind}", *options)
        site.sql(FILL.format(text=TEXT, first=1, last=500))
    relation = site.sql("SELECT pg_relation_filepath('t')")
    site.stop(data)
    report = site.audit(data, stanza.repository)
    assert (report.findings, report.warnings) == ((), ())
    full = [line for line in report.lines if line.place.endswith("F")]
    assert sum(line.verified for line in full) > 1000
    (backup,) = [path for path in stanza.backups() if path.name.endswith("F")]
    manifest = read_manifest(backup)
    assert isinstance(manifest, Manifest)
    _, name, stored = manifest.stored(f"pg_data/{relation}")
    assert name.parts[0] == ("bundle" if bundle else "pg_data")
    at = 20 + (stored.part[0] if stored.part else 0)
    content = (backup / name).read_bytes()
    (backup / name).write_bytes(content[:at] + bytes(60) + content[at + 60 :])
    found = site.audit(data, stanza.repository).findings
    assert found
    assert {finding.file for finding in found} == {backup / name}


@pytest.mark.slow
def test_a_repository_that_is_encrypted_again_is_said_to_be_unread(site):
    stanza = started(site, "repo1-cipher-type=aes-256-cbc", "repo1-cipher-pass=sesame open")
    stanza.run("backup", "--type=full")
    data = site.directory / "data"
    expected = site.sql(EVERYTHING)
    site.stop(data)
    restored = stanza.restore("restored", "--type=immediate", "--target-action=promote")
    assert rows_after_recovery(site, restored) == expected
    report = site.audit(data, stanza.repository)
    assert {finding.kind for finding in report.findings} == {FindingKind.NOT_JUDGED}
    assert all("repo-cipher-type" in finding.problem for finding in report.findings)


@pytest.mark.slow
def test_what_the_page_says_of_each_setting(stanza):
    site = stanza.site
    text = stanza.configuration.read_text()
    segment = site.sql("SELECT pg_walfile_name(pg_switch_wal() - 1)")
    stanza.configuration.write_text(text.replace("archive-header-check=n", ""))
    path = site.directory / "data/pg_wal" / segment
    shown = stanza.run("archive-push", path, exit_code=None)
    # By a bit that is random in ciphertext.
    assert any(message in shown for message in HEADER_MESSAGES), shown
    stanza.configuration.write_text(text.replace("checksum-page=n", ""))
    # Before 2.57, some builds end by a segmentation fault when they write that warning.
    may_crash = version() < (2, 57)
    shown = stanza.run("backup", "--type=full", exit_code=None if may_crash else 0)
    warned = shown.count("WARN: invalid page checksum") > 500
    assert warned or (may_crash and not list(stanza.repository.glob("backup/main/*F/*.manifest")))
    stanza.configuration.write_text(text)
    shown = stanza.run("verify", exit_code=None)
    assert any(message in shown for message in HEADER_MESSAGES), shown


@pytest.mark.slow
def test_a_restored_standby_is_shut_down_and_backed_up(stanza):
    site = stanza.site
    stanza.run("backup", "--type=full")
    primary = f"primary_conninfo=host={site.directory} user=postgres"
    standby = stanza.restore("standby", "--type=standby", f"--recovery-option={primary}")
    site.start(standby)
    streams = "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'"
    wait_for("the standby", lambda: site.sql(streams) == "1")
    with stanza.configuration.open("a") as file:
        file.write(f"pg2-path={standby}\npg2-socket-path={site.directory}\npg2-port=5440\n")
    stanza.run("backup", "--type=full", "--backup-standby")
    stanza.run("check")
    site.stop(standby)
    assert site.state(standby) == "in production"
    assert "shut down in recovery" in site.programs.run("pg_controldata", standby)
    site.start(standby)
    wait_for("the standby", lambda: site.sql(streams) == "1")
