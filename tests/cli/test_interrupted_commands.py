"""Ctrl-C in a command that leaves something behind: it says what that is, and what goes on."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tde.cli.app import app
from tde.convert.state import State
from tde.postgres.cluster import cluster as cluster_module, initialize
from tde.postgres.cluster.unfinished_conversion import MOVED_CONTROL
from tests.keystore.cheap_passphrase import PASSPHRASE


def interrupt(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


@pytest.fixture
def interrupted(os_user_tmp_path):
    """Runs a command that is interrupted, and returns the lines that it prints."""
    secret = os_user_tmp_path / "passphrase"
    secret.write_bytes(PASSPHRASE)
    secret.chmod(0o600)

    def run(*arguments: object) -> list[str]:
        command = [str(argument) for argument in arguments]
        if "--" not in command:
            command += ["--passphrase-file", str(secret)]
        result = CliRunner().invoke(app, command)
        assert result.exit_code == 130, result.output
        return result.output.splitlines()

    return run


@pytest.mark.parametrize("verb", ["encrypt", "decrypt"])
def test_a_conversion_says_how_to_continue(
    verb, encrypted_cluster_factory, any_binaries, interrupted, monkeypatch, tde_command
):
    if verb == "decrypt":
        made = encrypted_cluster_factory(any_binaries)
        keystore = made.keystore.path
        made.cluster.stop()
    else:
        made = encrypted_cluster_factory.plain(any_binaries)
        keystore = encrypted_cluster_factory.keystore().path
        made.cluster.stop()
    directory = made.data_directory
    with monkeypatch.context() as patches:
        # All blocks are converted then.
        patches.setattr(State, "finishing", interrupt)
        lines = interrupted("pg", verb, directory, "-k", keystore)
    assert (directory / MOVED_CONTROL).exists()
    assert lines[0] == "Interrupted."
    said, _, command = lines[1].partition("To continue: tde ")
    assert f"only partly {verb}ed" in said
    tde_command(*command.split(), "--passphrase-fd", 0)
    assert not (directory / MOVED_CONTROL).exists()


def test_a_conversion_that_changed_nothing_says_no_more(
    encrypted_cluster_factory, any_binaries, interrupted, monkeypatch
):
    made = encrypted_cluster_factory.plain(any_binaries, start=False)
    keystore = encrypted_cluster_factory.keystore().path
    monkeypatch.setattr(State, "write", interrupt)
    assert interrupted("pg", "encrypt", made.data_directory, "-k", keystore) == ["Interrupted."]


def test_a_restart_says_when_no_server_runs(
    encrypted_cluster_factory, any_binaries, interrupted, monkeypatch
):
    made = encrypted_cluster_factory(any_binaries)
    restart = ["pg", "restart", "-D", made.data_directory]
    with monkeypatch.context() as patches:
        patches.setattr(cluster_module, "stop_server", interrupt)
        assert interrupted(*restart) == ["Interrupted."]
    monkeypatch.setattr(cluster_module, "start_cluster", interrupt)
    assert interrupted(*restart) == [
        "Interrupted.",
        f"No server runs now: tde pg start -D {made.data_directory}",
    ]


def test_a_new_cluster_leaves_nothing_when_its_creation_is_interrupted(
    encrypted_cluster_factory, any_binaries, interrupted, monkeypatch, os_user_tmp_path
):
    """After initdb's own end; it takes back by itself what it has not ended."""
    keystore = encrypted_cluster_factory.keystore().path
    parent, wal = os_user_tmp_path / "new", os_user_tmp_path / "wal"
    command = ["pg", "init", "-D", parent / "main", "-k", keystore]
    command += ["--bindir", any_binaries.bindir]
    initdb = ["--", "--no-sync", "-X", wal]
    monkeypatch.setattr(initialize, "require_cluster_keys", interrupt)
    secret = ["--passphrase-file", os_user_tmp_path / "passphrase"]
    assert interrupted(*command, *secret, *initdb)[-1] == "Interrupted."
    assert not parent.exists()
    assert list(wal.iterdir()) == []
    assert list((keystore / "keys").iterdir()) == []
    # What initdb was to keep stays, with its keys.
    assert interrupted(*command, *secret, *initdb, "--no-clean")[-1] == "Interrupted."
    assert (parent / "main" / "tde.json").exists()
    assert list((keystore / "keys").iterdir()) != []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_initdb_takes_back_what_it_has_begun(
    number, encrypted_cluster_factory, any_binaries, os_user_tmp_path
):
    keystore = encrypted_cluster_factory.keystore().path
    parent, wal = os_user_tmp_path / "new", os_user_tmp_path / "wal"
    secret = os_user_tmp_path / "passphrase"
    secret.write_bytes(PASSPHRASE)
    secret.chmod(0o600)
    command = [Path(sys.executable).with_name("tde"), "pg", "init", "-D", parent / "main"]
    command += ["-k", keystore, "--bindir", any_binaries.bindir, "--passphrase-file", secret]
    with subprocess.Popen(
        [*command, "--", "-X", wal], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        deadline = time.monotonic() + 60
        while not (parent / "main" / "postgresql.conf").exists():
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(number)
        _, messages = process.communicate(timeout=60)
    assert process.returncode == 130
    assert messages.splitlines()[-1] == "Interrupted."
    assert not parent.exists()
    assert not wal.exists()
    assert list((keystore / "keys").iterdir()) == []
