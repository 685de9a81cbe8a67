"""Paths whose bytes are no UTF-8, as a file system has taken them from a machine of another age."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tde.postgres import Cluster
from tde.printable import printable
from tests.conftest import SERVER_OPTIONS
from tests.keystore.cheap_passphrase import PASSPHRASE

OPTIONS = " ".join(f"-c {name}={value}" for name, value in SERVER_OPTIONS.items())


@pytest.fixture
def latin(os_user_tmp_path, os_user) -> Path:
    """A directory of the server's user with the name café in Latin-1."""
    path = os_user_tmp_path / os.fsdecode(b"caf\xe9")
    path.mkdir()
    if os_user is not None:
        os.chown(path, os_user.uid, os_user.gid)
    return path


@pytest.fixture
def secret(os_user_tmp_path) -> list[str | Path]:
    path = os_user_tmp_path / "passphrase"
    path.write_bytes(PASSPHRASE)
    path.chmod(0o600)
    return ["--passphrase-file", path]


def test_bytes_are_shown_as_a_shell_takes_them():
    assert printable(os.fsdecode(b"/srv/caf\xe9")) == r"/srv/caf\xe9"


def test_a_cluster_lives_in_such_a_directory(
    latin, secret, tde_command, keystore_factory, encrypted_cluster_factory, any_binaries
):
    # keystore create tells syslog of the path, and it is made here with a cheap key derivation.
    keystore_factory(f"{latin.name}/keystore").close()
    data, keystore = latin / "data", latin / "keystore"
    made = encrypted_cluster_factory.track(Cluster(data, any_binaries))
    bindir = ["--bindir", any_binaries.bindir]
    tde_command("pg", "init", "-D", data, "-k", keystore, *secret, *bindir, "--", "--no-sync")
    started = tde_command("pg", "start", "-D", data, *secret, "-o", OPTIONS)
    assert r"/caf\xe9/data.log" in started.stdout
    assert made.status().interposed
    assert tde_command("psql", "-D", data, "--", "-Atc", "SELECT 1").stdout == "1\n"
    tde_command("pg", "restart", "-D", data, *secret)
    create = ["tablespace", "create", "secret", "-D", data, *secret]
    refused = tde_command(*create, "--location", latin / "secret", exit_code=1)
    assert "is not in UTF-8" in refused.stderr
    assert not (latin / "secret").exists()
    tde_command("pg", "audit", "-D", data, *secret)
    tde_command("keystore", "auto-open", "enable", "-k", keystore, *secret)
    tde_command("pg", "install-bin", latin / "bin", "-k", keystore, *bindir)
    assert os.fsencode(keystore) in (latin / "bin" / "tde-bin.conf").read_bytes()
    tde_command("pg", "stop", "-D", data)
    assert not made.status().running


def test_a_conversion_goes_both_ways_there(
    latin, secret, tde_command, keystore_factory, encrypted_cluster_factory, any_binaries
):
    made = encrypted_cluster_factory.plain(any_binaries, name=f"{latin.name}/data", start=False)
    keystore = keystore_factory(f"{latin.name}/keystore")
    keystore.close()
    for verb in ("encrypt", "decrypt"):
        tde_command("pg", verb, "-D", made.data_directory, "-k", keystore.path, *secret)
