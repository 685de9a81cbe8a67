"""``tde report`` as an operator types it, on real clusters: what it says is so."""

from __future__ import annotations

import base64
import json
import os
import stat
import subprocess
import sys
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tde import Algorithm
from tde.cli.app import app
from tde.keystore import KeyOwner
from tde.keystore.lifecycle.changes import set_age_limit
from tde.postgres import Cluster, create_tablespace
from tde.postgres.cluster.scope import Scope
from tde.report import Verdict, gather
from tde.report.keys import key_rows, life_of
from tde.report.model import Section
from tests.conftest import RunningCluster
from tests.keystore.cheap_passphrase import PASSPHRASE
from tests.postgres.canaries import settle
from tests.postgres.leaks.plain_user import as_plain_user
from tests.report.test_page import read

SCRIPT = "<script>alert(1)</script>"
LONGEST = "n" * 63
HEBREW = "שלום עולם"
ALL = ("html", "json")


@pytest.fixture(scope="module")
def running(module_cluster_factory, any_binaries, module_os_user_tmp_path) -> RunningCluster:
    """A cluster with an encrypted tablespace, names that mean harm, and a server."""
    made = module_cluster_factory(any_binaries)
    create_tablespace(
        made.cluster, made.keystore, SCRIPT, module_os_user_tmp_path / "ts", Algorithm.AES128
    )
    for name in (LONGEST, HEBREW):
        made.query(f'CREATE DATABASE "{name}" TEMPLATE template0')
    made.query(f'CREATE TABLE t TABLESPACE "{SCRIPT}" AS SELECT generate_series(1, 1000) g')
    settle(made)
    return made


@pytest.fixture
def report(tmp_path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs the command for a cluster, with one output for each form that is named.

    What is found on the machine of a test is not ours to choose, so the exit code is that of the
    report, unless another one is expected.
    """

    def run(
        made: RunningCluster,
        *arguments: object,
        forms: Sequence[str] = ("json",),
        exit_code: int | None = None,
    ) -> subprocess.CompletedProcess[str]:
        command = [Path(sys.executable).with_name("tde"), "report", "-D", made.data_directory]
        command += ["--bindir", made.cluster.binaries.bindir, "--passphrase-fd", "0"]
        command += [part for form in forms for part in ("-o", tmp_path / f"report.{form}")]
        result = subprocess.run(
            [*map(str, command), *map(str, arguments)],
            input=PASSPHRASE.decode(),
            capture_output=True,
            text=True,
            timeout=120,
        )
        if exit_code is None:
            exit_code = 0 if data(tmp_path)["verdict"] == "clean" else 1
        assert result.returncode == exit_code, result.stdout + result.stderr
        return result

    return run


def data(directory: Path) -> dict:
    return json.loads((directory / "report.json").read_text())["report"]


def test_what_it_says_of_a_running_cluster_is_so(running, tmp_path, report, tde_command):
    run = report(running, forms=ALL)
    document = data(tmp_path)
    assert run.stdout.splitlines()[:2] == [f"Wrote {tmp_path}/report.{form}" for form in ALL]

    server = document["server"]
    query = "SELECT system_identifier FROM pg_control_system()"
    assert server["system_identifier"] == running.query(query)[0][0]
    assert running.query("SHOW server_version")[0][0].startswith(server["version"])
    assert server["pid"] == running.cluster.pid
    assert server["has_interposer"] is True
    assert document["machine"]["kernel"].endswith(os.uname().release)

    rows = running.query("SELECT oid, spcname FROM pg_tablespace ORDER BY oid")
    assert [(t["oid"], t["name"]) for t in document["tablespaces"]] == rows
    databases = [name for (name,) in running.query("SELECT datname FROM pg_database ORDER BY 1")]
    assert sorted(document["tablespaces"][0]["databases"]) == sorted(databases)

    audited = json.loads(
        tde_command(
            *("pg", "audit", "-D", running.data_directory, "--json", "--passphrase-fd", 0)
        ).stdout
    )
    # A server that runs makes files meanwhile, so they are not counted.
    lines = [(line["name"], line["algorithm"]) for line in document["audit"]["lines"]]
    assert lines == [(line["name"], line["algorithm"]) for line in audited["lines"]]
    assert all(line["verified"] for line in document["audit"]["lines"] if line["algorithm"])
    assert document["audit"]["findings"] == []

    listed = json.loads(
        tde_command(
            *("keystore", "list", "-k", running.keystore.path, "--json", "--passphrase-fd", 0)
        ).stdout
    )
    keys = {f"keys/{key['file']}": key for key in document["keys"]}
    assert keys.keys() == {key["file"] for key in listed["keys"]}
    assert {key["state"] for key in keys.values()} == {"active"}
    assert keys["keys/wal.key"]["used_for"] == "WAL"
    assert keys["keys/wal.key"]["bytes"] >= 16 << 20
    assert keys["keys/1663.key"]["algorithm"] == "AES-256-XTS"
    server_library = document["libraries"][0]
    assert server_library["provider"] == "default"
    assert server_library["fips"] is False
    assert server_library["version"].startswith("OpenSSL 3")

    text = read((tmp_path / "report.html").read_text()).text
    for name in (SCRIPT, LONGEST, HEBREW, str(running.data_directory)):
        assert name in text
    for form in ALL:
        file = tmp_path / f"report.{form}"
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert file.stat().st_uid == os.geteuid()
        shown = tde_command(*verification(running, file)).stdout
        assert f"{file} is as tde has made it" in shown
        assert "of the key log tells of it" in shown
        has_no_secret(running, file)
    altered = tmp_path / "report.html"
    altered.write_bytes(altered.read_bytes().replace(b"AES-256", b"AES-128", 1))
    refused = tde_command(*verification(running, altered), exit_code=1)
    assert "it was altered after it was sealed" in refused.stderr


def verification(made: RunningCluster, file: Path) -> tuple[object, ...]:
    return ("report", "verify", file, "-k", made.keystore.path, "--passphrase-fd", 0)


def has_no_secret(made: RunningCluster, file: Path) -> None:
    """Neither the passphrase nor a key is in a report, in no form that a mistake would give it."""
    content = file.read_bytes()
    secrets = [bytes(PASSPHRASE)]
    for owner in (KeyOwner.wal(), KeyOwner.tablespace(1663), KeyOwner.other_tablespaces()):
        secrets.append(bytes(made.keystore.unwrap_key(owner)))
    _, log_secret = made.keystore.log_author()
    for secret in (*secrets, log_secret):
        for form in (secret, secret.hex().encode(), base64.b64encode(secret)):
            assert form not in content


def test_a_stopped_cluster_and_what_was_not_examined(
    encrypted_cluster_factory, any_binaries, tmp_path, report
):
    made = encrypted_cluster_factory(any_binaries, start=False)
    report(made)
    document = data(tmp_path)
    assert document["server"]["running"] is False
    assert document["server"]["state"] == "shut down"
    assert document["audit"]["running"] is False
    assert document["audit"]["clean"] is True
    assert "what a start would load" in document["libraries"][0]["note"]

    # There is no report yet under a new name; the one that is there is not replaced.
    before = (tmp_path / "report.json").read_bytes()
    refused = report(made, exit_code=1)
    assert "exists already" in refused.stderr
    assert "--force" in refused.stderr
    assert (tmp_path / "report.json").read_bytes() == before

    report(made, "--no-audit", "--force", exit_code=1)
    document = data(tmp_path)
    assert document["audit"] is None
    assert document["verdict"] in ("incomplete", "findings")
    (missing,) = [m for m in document["not_examined"] if m["section"] == "Proof of encryption"]
    assert "--no-audit" in missing["why"]
    assert list(tmp_path.iterdir()) == [tmp_path / "report.json"]


def test_plaintext_is_a_finding_and_the_exit_code_tells(
    encrypted_cluster_factory, any_binaries, tmp_path, report
):
    made = encrypted_cluster_factory(any_binaries, start=False)
    heap = made.data_directory / "base" / "1" / "1259"
    content = bytearray(heap.read_bytes())
    content[8192:16384] = (b"Jane Doe, 1970-01-01, " * 400)[:8192]
    heap.write_bytes(content)
    shown = report(made, exit_code=1, forms=("json", "html"))
    document = data(tmp_path)
    assert document["verdict"] == "findings"
    (finding,) = document["audit"]["findings"]
    assert finding["file"] == str(heap)
    assert any(str(heap) in problem["what"] for problem in document["problems"])
    assert f"Findings: {len(document['problems'])}" in shown.stdout
    text = read((tmp_path / "report.html").read_text()).text
    assert "There are findings" in text
    assert str(heap) in text


def test_plaintext_tablespaces_are_listed_as_exceptions(encrypted_cluster_factory, any_binaries):
    made = encrypted_cluster_factory(any_binaries, scope=Scope.TABLESPACES, start=False)
    found = gather(made.cluster, made.keystore)
    assert found.audit is not None
    decided = [line.name for line in found.audit.lines if line.by_decision]
    assert decided == ["pg_default", "pg_global"]
    # Only a running server tells what copies rows into them.
    (missing,) = [m for m in found.not_examined if m.section is Section.PLAINTEXT]
    assert missing.why == "no server runs"


def test_an_altered_key_log_and_keys_that_do_not_open_or_are_too_old_are_findings(
    encrypted_cluster_factory, any_binaries
):
    made = encrypted_cluster_factory(any_binaries, start=False)
    set_age_limit(made.keystore, "wal", 1)
    life = life_of(made.keystore, made.cluster)
    for days, overdue in ((0, []), (2, ["wal.key"])):
        now = datetime.now(timezone.utc) + timedelta(days=days)
        rows = key_rows(made.keystore, life, now)
        assert [key.file for key in rows if key.age_problem] == overdue
    log = made.keystore.path / "key.log"
    log.write_bytes(log.read_bytes().replace(b'"create key"', b'"create-key"', 1))
    record = made.keystore.path / "keys" / "1664.key"
    content = bytearray(record.read_bytes())
    content[-1] ^= 1
    record.write_bytes(content)
    found = gather(made.cluster, made.keystore)
    # What keeps the audit from looking is said, and the rest is told all the same.
    assert found.audit is None
    assert any(m.section is Section.PROOF and "1664.key" in m.why for m in found.not_examined)
    assert found.verdict is Verdict.FINDINGS
    problems = {problem.what: problem.section for problem in found.problems}
    assert Section.KEY_LOG in problems.values()
    (damaged,) = [what for what in problems if "1664.key" in what]
    assert problems[damaged] is Section.KEYS
    assert not any("wal.key" in what for what in problems)
    (key,) = [key for key in found.keys if key.file == "1664.key"]
    assert key.problem


def test_the_owner_of_the_cluster_needs_no_root(running, os_user):
    gather(running.cluster, running.keystore)  # Modules may be out of that user's reach.

    def look() -> dict:
        cluster = Cluster(running.data_directory, running.cluster.binaries)
        return gather(cluster, running.keystore).as_json()

    document = as_plain_user(os_user, look)
    assert document["audit"]["findings"] == []
    assert document["server"]["pid"] == running.cluster.pid
    assert document["tablespaces"][0]["databases"]
    assert document["key_log"]["problems"] == []
    # What that user may not look at is said, and not left out.
    libraries = {library["used_by"] for library in document["libraries"]}
    missing = {missing["what"] for missing in document["not_examined"]}
    if os_user is not None and "the OpenSSL of the server" not in missing:
        (server,) = [name for name in libraries if "in the server" in name]
        (note,) = [lib["note"] for lib in document["libraries"] if lib["used_by"] == server]
        assert "Run as root to know" in note


def test_ctrl_c_leaves_nothing(
    encrypted_cluster_factory, any_binaries, os_user_tmp_path, tmp_path, monkeypatch
):
    made = encrypted_cluster_factory(any_binaries, start=False)
    secret = os_user_tmp_path / "passphrase"
    secret.write_bytes(PASSPHRASE)
    secret.chmod(0o600)
    command = ["report", "-D", str(made.data_directory), "-o", str(tmp_path / "report.json")]
    command += ["-o", str(tmp_path / "report.html"), "--passphrase-file", str(secret)]
    for place in ("gathering.audit", "files._give_name"):
        with monkeypatch.context() as patches:
            patches.setattr(f"tde.report.{place}", interrupt)
            result = CliRunner().invoke(app, command)
        assert result.exit_code == 130, result.output
        assert list(tmp_path.iterdir()) == []


def interrupt(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


def test_wrong_outputs_are_refused_before_a_passphrase(running, tmp_path, tde_command):
    common = ("report", "-D", running.data_directory, "--passphrase-fd", 0, "-o")
    refused = tde_command(*common, tmp_path / "report.docx", exit_code=2)
    assert "report.docx ends with neither" in refused.stderr
    refused = tde_command(*common, tmp_path / "none" / "report.pdf", exit_code=1)
    assert "there is no directory" in refused.stderr
    assert "make" in tde_command("report", "--help").stdout
    wrong = ("--bindir", running.cluster.binaries.bindir, "--backup", tmp_path)
    refused = tde_command(*common, tmp_path / "report.json", *wrong, exit_code=1)
    assert str(tmp_path) in refused.stderr
    assert list(tmp_path.iterdir()) == []
    not_one = tmp_path / "x.json"
    not_one.write_text("{}")
    refused = tde_command(*verification(running, not_one), exit_code=1)
    assert "no report" in refused.stderr
