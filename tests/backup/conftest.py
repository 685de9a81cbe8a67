"""A server, its sealed backups, and what is found in them."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tde.algorithms import Algorithm
from tde.postgres import create_tablespace
from tde.postgres.server.os_user import OsUser
from tests.postgres.canaries import CANARY

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def made(binaries_older_slow, encrypted_cluster_factory, os_user_tmp_path, os_user):
    """A server with a tablespace that has a key of its own."""
    archive = make_directory_for(os_user, os_user_tmp_path / "archive")
    options = {"archive_mode": "on", "archive_command": f"cp %p {archive}/%f"}
    if binaries_older_slow.major >= 17:
        options["summarize_wal"] = "on"
    cluster = encrypted_cluster_factory(binaries_older_slow, options=options)
    create_tablespace(
        cluster.cluster, cluster.keystore, "secret", os_user_tmp_path / "space", Algorithm.AES256
    )
    cluster.query(
        "CREATE TABLE t TABLESPACE secret AS "
        f"SELECT '{CANARY.decode()}'::text FROM generate_series(1, 100)"
    )
    return cluster


@pytest.fixture
def take(made, os_user_tmp_path: Path, tde_command: Run) -> Callable[..., Path]:
    """Take a backup and return its directory."""

    def run(*options: object, name: str = "backup") -> Path:
        directory = os_user_tmp_path / name
        command = ("pg", "backup", directory, "-D", made.data_directory, "--passphrase-fd", "0")
        tde_command(*command, *options)
        return directory

    return run


@pytest.fixture
def verify(made, tde_command: Run) -> Callable[..., Any]:
    """Verify a backup and return what was found."""

    def run(directory: Path, *options: object, exit_code: int = 0) -> Any:
        command = ("pg", "verify-backup", directory, "-k", made.keystore.path)
        shown = tde_command(
            *command, "--json", "--passphrase-fd", "0", *options, exit_code=exit_code
        )
        return json.loads(shown.stdout)

    return run


def make_directory_for(os_user: OsUser | None, path: Path) -> Path:
    path.mkdir()
    if os_user is not None:
        os.chown(path, os_user.uid, os_user.gid)
    return path
