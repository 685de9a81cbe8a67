"""Ctrl-C in a command that leaves something behind: it says what that is, and what goes on."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from tde.cli.app import app
from tde.convert.state import State
from tde.postgres.cluster import cluster as cluster_module
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
        command = [*map(str, arguments), "--passphrase-file", str(secret)]
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
