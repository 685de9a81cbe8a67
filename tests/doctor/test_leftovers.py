"""Values that a server leaves in logs and states, and passwords, are found until they are gone."""

from __future__ import annotations

import json
import os
import re
import subprocess

import pytest

from tde.doctor import MachineFiles, Verdict
from tde.doctor.leftovers import logged_values
from tde.doctor.settings import Settings
from tests.doctor.examination import LEFTOVERS, examine, only, require_ok
from tests.doctor.machine_tree import Machine

# Some leftovers are those of files on a disk that is not encrypted.
pytestmark = pytest.mark.on_disk


def apply(running, remedy: str) -> None:
    """Run the statements that a remedy consists of."""
    for statement in re.findall(r"(?:ALTER SYSTEM|SELECT) [^;.]*", remedy.replace("then ", "")):
        running.query(statement)


def test_values_in_the_log(running):
    running.query("ALTER SYSTEM SET log_statement = 'all'")
    running.query("ALTER SYSTEM SET log_min_duration_statement = 250")
    running.query("ALTER SYSTEM SET log_min_error_statement = 'error'")
    running.query("SELECT pg_reload_conf()")
    report = examine(running, LEFTOVERS)
    found = only(report, "log_content", Verdict.WARNING)
    for name in ("log_statement = all", "log_min_duration_statement", "log_min_error_statement"):
        assert name in found.detail
    apply(running, found.remedy)
    require_ok(examine(running, LEFTOVERS), "log_content")


@pytest.mark.parametrize(
    ("name", "value"),
    [("log_destination", "stderr,csvlog"), ("log_destination", "jsonlog"),
     ("log_min_messages", "debug2")],
)  # fmt: skip
def test_logs_that_do_not_heed_the_verbosity(running, name, value):
    """The attack: csvlog wrote DETAIL, which quotes the row, and doctor said that it does not."""
    running.query(f"ALTER SYSTEM SET {name} = '{value}'")
    running.query("SELECT pg_reload_conf()")
    found = only(examine(running, LEFTOVERS), "log_content", Verdict.WARNING)
    assert f"{name} = {value}" in found.detail
    apply(running, found.remedy)
    require_ok(examine(running, LEFTOVERS), "log_content")


@pytest.mark.parametrize(
    ("name", "value", "logs"),
    [("log_min_messages", "warning, backend:debug2", True),
     ("log_min_messages", "warning,checkpointer:debug1", False),
     ("debug_print_raw_parse", "on", True)],
)  # fmt: skip
def test_settings_that_19_has(name, value, logs):
    assert bool(list(logged_values(Settings({name: value}, "a test")))) is logs


def test_values_in_a_log_on_an_encrypted_disk(stopped, tmp_path):
    settings = stopped.data_directory / "postgresql.auto.conf"
    before = settings.read_bytes()
    settings.write_bytes(before + b"log_min_error_statement = error\n")
    log = stopped.cluster.default_log
    log.touch(mode=0o600)
    if stopped.cluster.os_user is not None:
        os.chown(log, stopped.cluster.os_user.uid, stopped.cluster.os_user.gid)
    machine = Machine(tmp_path)
    machine.device("dm-0", "CRYPT-LUKS2-0123-root")
    machine.root_device("dm-0")
    report = examine(stopped, LEFTOVERS, machine_files=MachineFiles(tmp_path))
    require_ok(report, "log_content")
    machine.device("dm-0", "LVM-0123")
    report = examine(stopped, LEFTOVERS, machine_files=MachineFiles(tmp_path))
    assert only(report, "log_content", Verdict.WARNING)
    log.unlink()
    settings.write_bytes(before)


def test_a_log_that_others_may_read(running):
    log = running.cluster.default_log
    # Below a directory that is closed to others, the mode of the file says nothing.
    log.chmod(0o644)
    require_ok(examine(running, LEFTOVERS), "log_access")
    log.parent.chmod(0o755)
    found = only(examine(running, LEFTOVERS), "log_access", Verdict.PROBLEM)
    subprocess.run(found.remedy.split(",")[0], shell=True, check=True)
    require_ok(examine(running, LEFTOVERS), "log_access")
    log.chmod(0o640)
    assert only(examine(running, LEFTOVERS), "log_access", Verdict.WARNING)
    log.chmod(0o600)
    log.parent.chmod(0o700)


def test_a_log_in_the_data_directory(stopped, encrypted_cluster_factory, any_binaries):
    made = encrypted_cluster_factory(any_binaries, start=False)
    made.start(log=made.data_directory / "server.log")
    found = only(examine(made, LEFTOVERS), "log_access", Verdict.WARNING)
    assert "base backups carry it" in found.detail
    made.cluster.stop()
    (made.data_directory / "server.log").unlink()
    made.start()
    require_ok(examine(made, LEFTOVERS), "log_access")


@pytest.mark.parametrize(
    ("lines", "logs"),
    [
        (("pgaudit.log = 'read, write'",), True),
        (("pgaudit.log = 'all, -misc'", "pgaudit.log_statement = off"), False),
        (("pgaudit.log = 'ddl, role'",), False),
        (("pgaudit.role = 'auditor'",), True),
        ((), False),
    ],
)
def test_statements_in_an_audit_log(stopped, settings, lines, logs):
    settings("shared_preload_libraries = 'pgaudit'", *lines)
    report = examine(stopped, LEFTOVERS)
    if logs:
        found = only(report, "log_content", Verdict.WARNING)
        assert "pgaudit" in found.detail
        assert "ALTER SYSTEM SET pgaudit.log_statement = off" in found.remedy
    else:
        require_ok(report, "log_content")


def test_kept_statement_texts(stopped, settings):
    settings("shared_preload_libraries = 'auto_explain, pg_stat_statements'")
    found = only(examine(stopped, LEFTOVERS), "statement_texts", Verdict.WARNING)
    assert "pg_stat_statements.track_utility = off" in found.remedy
    settings(
        "shared_preload_libraries = 'auto_explain, $libdir/pg_stat_statements'",
        "pg_stat_statements.track_utility = off",
        "auto_explain.log_min_duration = '1s'",
    )
    report = examine(stopped, LEFTOVERS)
    require_ok(report, "statement_texts")
    assert "auto_explain" in only(report, "log_content", Verdict.WARNING).detail
    settings()
    left = stopped.data_directory / "pg_stat" / "pg_stat_statements.stat"
    left.write_text("ALTER ROLE r PASSWORD 'secret'")
    found = only(examine(stopped, LEFTOVERS), "statement_texts", Verdict.WARNING)
    subprocess.run(found.remedy.removeprefix("Remove it: "), shell=True, check=True)
    require_ok(examine(stopped, LEFTOVERS), "statement_texts")


def test_a_password_in_the_configuration(stopped, settings):
    settings("primary_conninfo = 'host=primary user=standby password=s3cr3t-words'")
    report = examine(stopped, LEFTOVERS)
    assert only(report, "passwords", Verdict.WARNING)
    assert "s3cr3t-words" not in json.dumps(report.as_json())
    settings("primary_conninfo = 'host=primary user=standby passfile=/home/pg/.pgpass'")
    require_ok(examine(stopped, LEFTOVERS), "passwords")
