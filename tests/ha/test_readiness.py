"""``tde ha check``: what a promotion must not find missing."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tde.keystore import Keystore
from tde.keystore.store.layout import LOG_NAME
from tde.postgres.server.os_user import run_as
from tests.conftest import RunningCluster

Run = Callable[..., subprocess.CompletedProcess[str]]
CLOSED = "could not encrypt or decrypt data because the keystore is not open"


def check(made: RunningCluster, tde: Run, *options: object, exit_code: int = 0) -> dict[str, Any]:
    bindir = made.cluster.binaries.bindir
    words = ("ha", "check", "-D", made.data_directory, "--bindir", bindir, "--json")
    document: dict[str, Any] = json.loads(tde(*words, *options, exit_code=exit_code).stdout)
    return document


def verdicts(found: dict[str, Any]) -> dict[str, str]:
    order = ["ok", "warning", "unknown", "problem"]
    worst: dict[str, str] = {}
    for one in found["findings"]:
        before = worst.get(one["check"], "ok")
        worst[one["check"]] = max(before, one["verdict"], key=order.index)
    return worst


def test_a_node_that_is_ready(made: RunningCluster, tde_command: Run) -> None:
    found = check(made, tde_command)
    assert found["ready"]
    assert found["score"] == 100
    assert found["is_primary"]
    assert set(verdicts(found).values()) == {"ok"}
    score = tde_command("ha", "check", "-D", made.data_directory, "--score")
    assert score.stdout.split() == ["100", found["digest"]]
    quiet = tde_command("ha", "check", "-D", made.data_directory, "-q", "on_start", "replica", "x")
    assert quiet.stdout + quiet.stderr == ""


def test_the_key_log_is_left_alone(made: RunningCluster, tde_command: Run) -> None:
    """The accident: an attempt to break in, among thousands of entries of the monitoring."""
    assert made.keystore is not None
    log = made.keystore.path / LOG_NAME
    check(made, tde_command)
    before = log.read_bytes()
    check(made, tde_command)
    secret = made.keystore.path / "auto-open.key"
    secret.write_bytes(secret.read_bytes()[:-1] + b"x")
    check(made, tde_command, exit_code=1)
    assert log.read_bytes() == before


def test_the_keystore_is_where_the_server_has_it(
    made: RunningCluster, tde_command: Run, os_user_tmp_path: Path
) -> None:
    """The accident: a base backup remembers the place on its primary's machine."""
    assert made.keystore is not None
    made.cluster.stop()
    copy, programs = os_user_tmp_path / "copy", os_user_tmp_path / "bin"
    tde_command("keystore", "sync", copy, "-k", made.keystore.path)
    tde_command("keystore", "auto-open", "enable", "-k", copy, "--passphrase-fd", "0")
    bindir = made.cluster.binaries.bindir
    tde_command("pg", "install-bin", programs, "-k", copy, "--bindir", bindir)
    log = os_user_tmp_path / "started.log"
    options = f"-c unix_socket_directories={os_user_tmp_path} -c listen_addresses="
    start = [
        programs / "pg_ctl",
        "start",
        "-w",
        "-D",
        made.data_directory,
        "-l",
        log,
        "-o",
        options,
    ]
    run = run_as(made.cluster.os_user, [*map(str, start)], cwd=os_user_tmp_path)
    assert run.returncode == 0, log.read_text()
    try:
        shown = tde_command("pg", "status", "-D", made.data_directory, "--json").stdout
        assert json.loads(shown)["keystore"] == str(copy)
        assert check(made, tde_command)["ready"]
        doctor = tde_command("pg", "doctor", "-D", made.data_directory, "--json", exit_code=None)
        (keystore,) = [
            one for one in json.loads(doctor.stdout)["findings"] if one["check"] == "keystore"
        ]
        assert str(copy) in keystore["detail"]
    finally:
        made.cluster.stop()


def test_doctor_tells_of_a_secret_that_is_gone(made: RunningCluster, tde_command: Run) -> None:
    """In the trial it said ok."""
    assert made.keystore is not None
    secret = made.keystore.path / "auto-open.key"
    secret.write_bytes(secret.read_bytes()[:-1] + b"x")
    doctor = tde_command("pg", "doctor", "-D", made.data_directory, "--json", exit_code=1)
    found = [one for one in json.loads(doctor.stdout)["findings"] if one["check"] == "auto_open"]
    assert [one["verdict"] for one in found] == ["problem"]
    assert "until its next start" in found[0]["detail"]


def test_a_secret_that_is_gone(made: RunningCluster, tde_command: Run) -> None:
    """The accident: promoted without its secret, and down at the next failure."""
    (made.keystore.path / "auto-open.key").unlink()  # type: ignore[union-attr]
    found = check(made, tde_command, exit_code=1)
    # It serves as the primary, which nobody takes down for that.
    assert found["score"] == 50
    assert verdicts(found)["opens"] == "problem"
    (opens,) = [one for one in found["findings"] if one["check"] == "opens"]
    assert CLOSED in opens["detail"]
    assert "Open the existing keystore, or set the master encryption key" in opens["remedy"]
    made.cluster.stop()
    assert check(made, tde_command, exit_code=1)["score"] == 0
    score = tde_command("ha", "check", "-D", made.data_directory, "--score", exit_code=1)
    assert score.stdout.split()[0] == "0"
    assert CLOSED in " ".join(score.stderr.split())


def test_a_key_that_is_gone(made: RunningCluster, tde_command: Run) -> None:
    assert made.keystore is not None
    (made.keystore.path / "keys" / "1663.key").unlink()
    found = check(made, tde_command, exit_code=1)
    assert verdicts(found)["keys"] == "problem"
    assert "pg_default" in json.dumps(found)


def test_another_keystore(
    made: RunningCluster, tde_command: Run, keystore_factory: Callable[..., Keystore]
) -> None:
    other = keystore_factory("other")
    other.enable_auto_open()
    found = check(made, tde_command, "--keystore", other.path, exit_code=1)
    assert verdicts(found)["keys"] == "problem"


def test_a_tablespace_that_is_not_mounted(
    made: RunningCluster, tde_command: Run, os_user_tmp_path: Path
) -> None:
    space = os_user_tmp_path / "space"
    space.mkdir()
    if made.cluster.os_user is not None:
        os.chown(space, made.cluster.os_user.uid, made.cluster.os_user.gid)
    made.query(f"CREATE TABLESPACE space LOCATION '{space}'")
    assert verdicts(check(made, tde_command))["tablespaces"] == "ok"
    space.rename(space.with_name("elsewhere"))
    found = check(made, tde_command, exit_code=1)
    assert verdicts(found)["tablespaces"] == "problem"
    assert str(space) in json.dumps(found)


def test_a_server_that_does_not_encrypt(
    made: RunningCluster, tde_command: Run, encrypted_cluster_factory, any_binaries
) -> None:
    plain = encrypted_cluster_factory.plain(any_binaries)
    assert check(plain, tde_command)["score"] == 100
    # Somebody has put the marker of an encrypted cluster into a plain one.
    for name in ("tde.json", "tde.keymap"):
        content = (made.data_directory / name).read_bytes()
        (plain.data_directory / name).write_bytes(content)
    found = check(plain, tde_command, exit_code=1)
    assert verdicts(found)["server"] == "problem"
    assert found["score"] == 0


def test_nodes_with_other_keys_are_told(made: RunningCluster, tde_command: Run) -> None:
    own = check(made, tde_command)["digest"]
    assert verdicts(check(made, tde_command, "--other", own))["others"] == "ok"
    found = check(made, tde_command, "--other", own, "--other", "0123456789abcdef")
    assert verdicts(found)["others"] == "warning"
    assert found["ready"]


def test_the_digest_does_not_depend_on_the_master_key(
    made: RunningCluster, tde_command: Run, os_user_tmp_path: Path
) -> None:
    assert made.keystore is not None
    before = check(made, tde_command)["digest"]
    copy = os_user_tmp_path / "copy"
    tde_command("keystore", "sync", copy, "--keystore", made.keystore.path)
    tde_command("keystore", "rotate", "-k", copy, "--passphrase-fd", "0")
    tde_command("keystore", "auto-open", "enable", "-k", copy, "--passphrase-fd", "0")
    assert check(made, tde_command, "--keystore", copy)["digest"] == before


def test_no_cluster_is_an_error(tde_command: Run, tmp_path: Path) -> None:
    tde_command("ha", "check", "-D", tmp_path, exit_code=4)
