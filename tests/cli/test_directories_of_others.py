"""The data directory of another user: every command says so itself, and the doctor finds it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tde.postgres import OsUser
from tde.postgres.server.os_user import can_access

TDE = Path(sys.executable).with_name("tde")
NOBODY = OsUser("nobody", 65534, 65534, (), "/")


@pytest.fixture
def run(encrypted_cluster_factory, any_binaries):
    """Runs a command on such a directory and returns its exit code, and all that it prints."""
    made = encrypted_cluster_factory.plain(any_binaries, start=False)
    directory = made.data_directory
    changed: dict[str, int] = {}
    if os.geteuid() == 0:
        if not can_access(NOBODY, TDE, "-x") or not can_access(NOBODY, Path(sys.executable), "-x"):
            pytest.skip("another user cannot run this tde")
        directory.parent.chmod(0o755)
        changed = {"user": NOBODY.uid, "group": NOBODY.gid}
    else:
        directory.chmod(0)

    def run(*arguments: str) -> tuple[int, str]:
        command = [TDE, *arguments[:2], "-D", directory, *arguments[2:]]
        result = subprocess.run(command, capture_output=True, text=True, timeout=60, **changed)
        return result.returncode, result.stdout + result.stderr

    yield run
    directory.chmod(0o700)


@pytest.mark.parametrize(
    "command",
    [
        *("start", "stop", "restart", "status", "audit", "encrypt", "decrypt", "accept"),
        "exec psql",
    ],
)
def test_commands_tell_whose_rights_are_needed(command, run):
    code, text = run("pg", *command.split())
    assert code in (1, 4)
    assert "may not be read by" in text
    assert "HINT: Run tde as the owner of the data directory, or as root." in text


def test_the_doctor_tells_it_as_a_finding(run):
    code, text = run("pg", "doctor")
    assert code == 1
    assert "Run this as the owner of the data directory, or as root." in text
