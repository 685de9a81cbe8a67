"""Barman: backups by streaming and by rsync, WAL by both ways, restored to a point in time."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tde.postgres.cluster.tool_settings import BackupTool, tool_settings
from tests.postgres.canaries import CANARY, files_with
from tests.tools.site import Site, local_ssh, require_tools, wait_for

TEXT = CANARY.decode()
EVERYTHING = "SELECT count(*) || ' ' || sum(g) FROM t"
STREAMING = [
    *("backup_method=postgres", "streaming_archiver=on"),
    *("slot_name=barman", "create_slot=auto"),
]
METHODS = {
    "streaming": STREAMING,
    "compressed": [*STREAMING, "backup_compression=gzip", "recovery_staging_path={home}/staging"],
    "rsync": ["backup_method=rsync", "archiver=on", "reuse_backup=link"],
}


class Barman:
    """One server in Barman's configuration, with the settings of docs/barman.md."""

    def __init__(self, site: Site, method: list[str]) -> None:
        self.site = site
        ssh = local_ssh(site.directory)
        self.home = site.make("barman")
        self.configuration = site.make("etc") / "barman.conf"
        settings = tool_settings(BackupTool.BARMAN, site.programs.directory).lines()[1:]
        conninfo = f"host={site.directory} user=postgres"
        lines = [
            "[barman]",
            *(f"barman_home={self.home}", f"barman_lock_directory={self.home}"),
            *(f"log_file={self.home}/log", "immediate_checkpoint=true"),
            f"barman_user={'postgres' if site.os_user is None else site.os_user.name}",
            "[main]",
            *("description=main", "backup_options=concurrent_backup"),
            f"conninfo={conninfo} dbname=postgres",
            f"streaming_conninfo={conninfo}",
            f"ssh_command={ssh} localhost",
            *settings,
            *(line.format(home=self.home) for line in method),
        ]
        self.configuration.write_text("".join(f"{line}\n" for line in lines))

    def run(self, *command: object, exit_code: int | None = 0) -> str:
        return self.site.tool("barman", "-c", self.configuration, *command, exit_code=exit_code)

    def archive_all(self) -> None:
        self.run("switch-wal", "--force", "--archive", "--archive-timeout=60", "main")


def archive_command(site: Site, barman: Barman) -> str:
    where = f"-c {barman.configuration} localhost main"
    return f"archive_command = 'barman-wal-archive {where} %p'"


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_back_up_and_restore(site, method):
    require_tools("barman", "barman-wal-archive", "rsync")
    barman = Barman(site, METHODS[method])
    data = site.init("data", "archive_mode = on", archive_command(site, barman))
    if method != "rsync":
        site.configure(data, "archive_mode = off")
    start_with_tools(site, data)
    site.sql(f"CREATE TABLE t AS SELECT g, '{TEXT}' AS x FROM generate_series(1, 5000) g")
    barman.run("cron")
    if method != "rsync":
        slot = "SELECT count(*) FROM pg_replication_slots WHERE active"
        wait_for("pg_receivewal", lambda: site.sql(slot) == "1")
    barman.archive_all()
    assert "FAILED" not in barman.run("check", "main")
    barman.run("backup", "main")
    barman.archive_all()
    barman.run("check-backup", "main", "latest")
    assert "WAITING_FOR_WALS" not in barman.run("list-backup", "main")
    site.sql(f"INSERT INTO t SELECT g, '{TEXT}' FROM generate_series(5001, 6000) g")
    expected = site.sql(EVERYTHING)
    site.sql("SELECT pg_create_restore_point('here')")
    site.sql("DELETE FROM t")
    barman.archive_all()

    restored = site.directory / "restored"
    target = ("--target-name", "here", "--target-action", "promote")
    barman.run("recover", *target, "main", "latest", restored)
    site.configure(restored, "archive_mode = off", "port = 5440")
    site.start(restored)
    wait_for("recovery", lambda: site.sql("SELECT pg_is_in_recovery()", 5440) == "f")
    assert site.sql(EVERYTHING, 5440) == expected
    site.stop(restored)
    report = site.audit(data, barman.home / "main")
    assert report.findings == ()
    assert all(line.verified for line in report.lines if line.place.endswith("/wals"))
    assert sum(line.verified for line in report.lines if line.place.startswith("backup")) > 200
    assert files_with(CANARY, barman.home, restored) == []
    if method != "rsync":
        barman.run("receive-wal", "--stop", "main")


def start_with_tools(site: Site, data: Path) -> None:
    """Start a server whose archive_command finds the tools in its PATH."""
    control = site.programs.directory / "pg_ctl"
    site.tool("sh", "-c", f"{control} start -w -D {data} -l {data}.log > {data}.start 2>&1")


@pytest.mark.slow
@pytest.mark.parametrize("compressed", ["by barman", "before"])
def test_ciphertext_that_looks_like_another_format_is_given_back(site, compressed):
    """One segment in some thousands does, to the program `file`."""
    require_tools("barman", "file")
    if compressed == "before" and "--gzip" not in site.tool("barman-wal-archive", "--help"):
        pytest.skip("this barman-wal-archive does not compress")
    barman = Barman(site, METHODS["rsync"])
    segments = {
        "000000010000000000000001": bytes.fromhex("8c4e1b0408"),  # "PGP symmetric key encrypted"
        "000000010000000000000002": bytes.fromhex("8c42900a04"),
        "000000010000000000000003": b"\x1f\x8b\x08" if compressed == "before" else b"",
    }
    incoming = barman.home / "main/incoming"
    for name, front in segments.items():
        path = site.directory / name
        path.write_bytes(front + os.urandom((16 << 20) - len(front)))
        if compressed == "before":
            command = ("barman-wal-archive", "-c", barman.configuration, "-z", "localhost", "main")
            site.tool(*command, path)
        else:
            site.tool("mkdir", "-p", incoming)
            shutil.copyfile(path, incoming / name)
            if site.os_user is not None:
                os.chown(incoming / name, site.os_user.uid, site.os_user.gid)
    barman.run("archive-wal", "main")
    for name in segments:
        given = site.directory / f"{name}.given"
        site.tool("sh", "-c", f"barman -c {barman.configuration} get-wal main {name} > {given}")
        assert given.read_bytes() == (site.directory / name).read_bytes()
