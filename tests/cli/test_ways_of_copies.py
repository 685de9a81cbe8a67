"""What commands say of the ways in which a copy of a keystore opens, and a rotated keystore."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tde.cli.app import app
from tde.keystore import Keystore, add_envelope
from tests.keystore.cheap_passphrase import PASSPHRASE

runner = CliRunner(env={"TDE_KEYSTORE": None, "COLUMNS": "200", "NO_COLOR": "1"})


@pytest.fixture(autouse=True)
def accepted(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another directory is another machine."""
    monkeypatch.setenv("TDE_ACCEPTED", str(place / "accepted"))


def run(*arguments: object, code: int = 0) -> Any:
    result = runner.invoke(app, ["keystore", *map(str, arguments)], input="")
    assert result.exit_code == code, result.output
    return result


def add_command(keystore: Path, place: Path, name: str, *, unattended: bool = True) -> Path:
    """Let a command open a keystore; the file that is returned has a line for each run."""
    ran = place / f"{name} ran"
    ran.touch()
    ran.chmod(0o666)
    cat = {
        "wrap-command": f"cat; echo wrap >> '{ran}'",
        "unwrap-command": f"cat; echo unwrap >> '{ran}'",
    }
    with Keystore.open(keystore, PASSPHRASE) as opened:
        add_envelope(opened, name, "command", cat, unattended=unattended)
    ran.write_text("")
    return ran


def test_a_backup_and_its_restore_name_each_way_and_its_commands(
    keystore: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = add_command(keystore, place, "theirs")
    with Keystore.open(keystore, PASSPHRASE) as opened:
        (place / "host.key").write_bytes(os.urandom(32))
        (place / "host.key").chmod(0o600)
        host_secret = {"file": str(place / "host.key")}
        add_envelope(opened, "host", "host-secret", host_secret, unattended=True, level="wal")
        opened.enable_auto_open()
    ways = [
        "It opens with its passphrase, and by:",
        "  provider host (host-secret, unattended, level wal)",
        f"    file={place / 'host.key'}",
        "  provider theirs (command, unattended)",
        f"    unwrap-command=cat; echo unwrap >> '{ran}'",
        f"    wrap-command=cat; echo wrap >> '{ran}'",
        "Each provider needs something that is not in this directory.",
    ]
    said = run("backup", place / "backup", "-k", keystore).stderr.splitlines()
    assert said[-8:] == ["auto-open.key was left out.", *ways]
    with_file = run("backup", place / "opens", "-k", keystore, "--with-auto-open")
    assert "and by:\n  auto-open.key\n  provider host" in with_file.stderr
    # On the machine that has accepted the command there is nothing else to say.
    here = run("restore", place / "backup", "-k", place / "here").stderr
    assert ways == here.splitlines()[-8:-1]
    monkeypatch.setenv("TDE_ACCEPTED", str(place / "another machine"))
    elsewhere = place / "elsewhere"
    there = run("restore", place / "backup", "-k", elsewhere).stderr.splitlines()
    assert there[-9:-2] == ways
    assert there[-2].startswith("Provider theirs was not accepted on this machine, so it is used")
    assert there[-2].endswith(f"tde keystore provider accept theirs --keystore {elsewhere}")
    assert ran.read_text() == ""


def test_a_copy_of_keys_brings_no_way_to_open_the_keystore(
    keystore: Path, place: Path, passphrase: list[str]
) -> None:
    run("backup", place / "plain", "-k", keystore)
    add_command(keystore, place, "theirs")
    run("copy", keystore, place / "plain", *passphrase)
    assert not (place / "plain" / "unlock").exists()


def test_a_copy_without_another_way_says_so(keystore: Path, place: Path) -> None:
    for arguments in (
        ("backup", place / "backup", "-k", keystore),
        ("restore", place / "backup", "-k", place / "restored"),
    ):
        assert "It opens with its passphrase only." in run(*arguments).stderr


def test_an_envelope_that_cannot_be_read_is_named(keystore: Path, place: Path) -> None:
    add_command(keystore, place, "theirs")
    (file,) = (keystore / "unlock").iterdir()
    file.write_bytes(file.read_bytes().replace(b'"unattended"', b'"Unattended"'))
    run("backup", place / "backup", "-k", keystore)
    said = run("restore", place / "backup", "-k", place / "restored").stderr
    assert "  provider theirs, if it is repaired (" in said
    assert "Provider theirs was not accepted on this machine" in said


def test_a_rotation_says_what_it_has_kept_and_what_it_has_dropped(
    keystore: Path, place: Path, passphrase: list[str]
) -> None:
    add_command(keystore, place, "old")
    shutil.copytree(keystore / "unlock", place / "before")
    run("provider", "remove", "old", "-k", keystore)
    only = run("rotate", "-k", keystore, *passphrase).stdout
    assert "The new master key opens by the passphrase only." in only
    add_command(keystore, place, "named", unattended=False)
    # As of somebody who has copied files back; it is for the master key of before.
    (back,) = (place / "before").iterdir()
    shutil.copy(back, keystore / "unlock")
    said = run("rotate", "-k", keystore, *passphrase).stdout
    assert "The new master key opens by provider named (command) as well." in said
    assert "Provider old was dropped: its envelope was for a master key of before." in said
