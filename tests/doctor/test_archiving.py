"""Archiving that fails, or will, is said before WAL piles up."""

from __future__ import annotations

import time

import pytest

from tde.doctor import Verdict
from tde.postgres.cluster.backrest_options import find_call, is_off
from tests.doctor.examination import examine, only, require_ok

OFF = "archive-header-check"


def test_an_archiver_that_fails(module_cluster_factory, postgres_installations):
    newest = list(postgres_installations.values())[-1]
    made = module_cluster_factory(newest, name="failing", start=False)
    made.start({"archive_mode": "on"})
    made.query("ALTER SYSTEM SET archive_command = 'true'")
    made.query("SELECT pg_reload_conf()")
    archived = "SELECT archived_count, failed_count FROM pg_stat_archiver"
    made.query("SELECT pg_switch_wal()")
    wait_until(made, archived, lambda row: row[0] > 0)
    require_ok(examine(made), "archiving")
    made.query("ALTER SYSTEM SET archive_command = 'false'")
    made.query("SELECT pg_reload_conf()")
    segment = made.query("SELECT pg_walfile_name(pg_create_restore_point('x'))")[0][0]
    made.query("SELECT pg_switch_wal()")
    wait_until(made, archived, lambda row: row[1] > 0)
    found = only(examine(made), "archiving", Verdict.PROBLEM)
    assert f"failed, at segment {segment}; 1 segments wait" in found.detail
    made.query("ALTER SYSTEM SET archive_command = 'true'")
    made.query("SELECT pg_reload_conf()")
    wait_until(
        made,
        "SELECT last_archived_time > last_failed_time, 0 FROM pg_stat_archiver",
        lambda row: row[0],
        seconds=90,
    )
    require_ok(examine(made), "archiving")


def wait_until(made, query, condition, seconds=30):
    deadline = time.monotonic() + seconds
    while not condition(made.query(query)[0]):
        assert time.monotonic() < deadline, query
        time.sleep(0.2)


def test_pgbackrest_that_does_not_know(stopped, settings, os_user_tmp_path):
    file = os_user_tmp_path / "pgbackrest.conf"
    command = f"pgbackrest --config={file} --stanza=main archive-push %p"
    settings("archive_mode = on", f"archive_command = '{command}'")
    for text, verdicts in (
        ("[global]\nrepo1-path=/x\n", {Verdict.PROBLEM, Verdict.WARNING}),
        ("[global]\narchive-header-check=n\n", {Verdict.WARNING}),
        ("[main]\narchive-header-check=n\nchecksum-page=n\n", {Verdict.OK}),
        ("[other]\narchive-header-check=n\nchecksum-page=n\n[global]\n", None),
    ):
        file.write_text(text)
        found = examine(stopped).named("archiving")
        assert {f.verdict for f in found} == (verdicts or {Verdict.PROBLEM, Verdict.WARNING})
        for finding in found:
            if finding.verdict is not Verdict.OK:
                assert f"--write {file}" in finding.remedy
                assert str(file) in finding.detail


def test_another_program_is_no_concern(stopped, settings):
    settings("archive_mode = on", "archive_command = 'cp %p /srv/pgbackrest/%f'")
    require_ok(examine(stopped), "archiving")


@pytest.mark.parametrize(
    ("command", "off"),
    [
        ("pgbackrest --stanza=main --no-archive-header-check archive-push %p", True),
        ("/usr/bin/pgbackrest --stanza main --archive-header-check=n archive-push %p", True),
        ("test -f x && PGBACKREST_ARCHIVE_HEADER_CHECK=n pgbackrest archive-push %p", True),
        ("pgbackrest --archive-header-check archive-push %p; x --no-archive-header-check", False),
        ("pgbackrest --archive-header-check=y --stanza=main archive-push %p", False),
        ("pgbackrest --config={file} --stanza=main archive-push %p", True),
        ("pgbackrest --config={file} --stanza=other archive-push %p", False),
        ("pgbackrest --config {file} --stanza narrow archive-push %p", False),
        ("pgbackrest --config-path={file.parent} --stanza=later archive-push %p", True),
    ],
)
def test_options_are_found_as_pgbackrest_does(tmp_path, command, off):
    file = tmp_path / "pgbackrest.conf"
    file.write_text(
        "[global]\n# archive-header-check=n\n[main]\narchive-header-check = n\n"
        "[narrow]\narchive-header-check=n\n[narrow:archive-push]\narchive-header-check=y\n"
    )
    included = tmp_path / "conf.d"
    included.mkdir()
    (included / "more.conf").write_text("[later]\narchive-header-check=n\n")
    call = find_call(command.format(file=file))
    assert call is not None
    assert is_off(call, OFF, "archive-push") is off


def test_a_command_without_pgbackrest():
    assert find_call("cp %p '/srv/pgbackrest/%f") is None
    assert find_call("") is None


@pytest.mark.parametrize(
    "command",
    [
        "cd /var/lib/pgbackrest && pgbackrest --stanza=main archive-push %p",
        "[ -d /var/log/pgbackrest ] && pgbackrest --stanza=main archive-push %p",
        "pgbackrest --stanza=main archive-push %p && touch /var/log/pgbackrest",
    ],
)
def test_a_directory_of_that_name_is_not_the_program(command):
    call = find_call(command)
    assert call is not None
    assert (call.program, call.option("stanza")) == ("pgbackrest", "main")


def test_other_commands_are_told_what_archive_push_is_told():
    call = find_call(
        "PGBACKREST_REPO1_PATH=/r /opt/pgbackrest --config /etc/x --stanza=main --archive-async "
        "--no-repo1-storage-verify-tls --log-level-console=off archive-push %p"
    )
    assert call is not None
    assert call.program == "/opt/pgbackrest"
    assert call.environment == {
        "PGBACKREST_REPO1_PATH": "/r",
        "PGBACKREST_CONFIG": "/etc/x",
        "PGBACKREST_STANZA": "main",
        "PGBACKREST_ARCHIVE_ASYNC": "y",
        "PGBACKREST_REPO1_STORAGE_VERIFY_TLS": "n",
        "PGBACKREST_LOG_LEVEL_CONSOLE": "off",
    }
