"""Who may connect to a cluster that ``tde pg init`` has made."""

from __future__ import annotations

from pathlib import Path

import psycopg2
import pytest

from tde.postgres import Cluster
from tde.postgres.cluster.authentication import authentication_arguments
from tde.postgres.server.os_user import current_user_name
from tests.conftest import SERVER_OPTIONS

OPTIONS = " ".join(f"-c {name}={value}" for name, value in SERVER_OPTIONS.items())
BOTH = ["--auth-local=peer", "--auth-host=scram-sha-256"]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([], BOTH),
        (["--locale=C", "-k"], BOTH),
        (["-U", "postgres"], BOTH),
        (["-A", "trust"], []),
        (["-Atrust"], []),
        (["-NA", "md5"], []),
        (["--auth=trust"], []),
        (["--auth-host=md5"], BOTH[:1]),
        (["--auth-local", "trust"], BOTH[1:]),
        # The name of nobody in the system: initdb then asks for a password.
        (["--username=admin"], ["--auth-local=scram-sha-256", BOTH[1]]),
        (["-kU", "admin", "--auth-local=trust"], BOTH[1:]),
        # An option that is not known here; what follows wins, because it stands behind.
        (["--new-option", "-A", "trust"], BOTH),
    ],
)
def test_what_is_said_stays_and_the_rest_is_not_trust(given, expected):
    assert authentication_arguments(given, "postgres") == expected


def rules(data: Path) -> set[tuple[str, str]]:
    """Return the first and the last word of each line of pg_hba.conf."""
    lines = (data / "pg_hba.conf").read_text().splitlines()
    words = [line.split() for line in lines if line and not line.startswith("#")]
    return {(line[0], line[-1]) for line in words}


@pytest.fixture
def keystore(encrypted_cluster_factory) -> Path:
    return encrypted_cluster_factory.keystore().path


def test_only_the_servers_user_connects_without_a_password(
    tde_command, keystore, encrypted_cluster_factory, os_user_tmp_path, any_binaries, os_user
):
    data = os_user_tmp_path / "data"
    made = encrypted_cluster_factory.track(Cluster(data, any_binaries))
    bindir = ["--bindir", any_binaries.bindir]
    passphrase = ["--passphrase-fd", 0]
    init = ["pg", "init", "-D", data, "-k", keystore, *passphrase, *bindir, "--", "--no-sync"]
    said = tde_command(*init)
    owner = current_user_name() if os_user is None else os_user.name
    assert f"{owner} connects as the superuser without a password" in said.stdout
    assert rules(data) == {("local", "peer"), ("host", "scram-sha-256")}
    tde_command("pg", "start", "-D", data, *passphrase, "-o", OPTIONS)
    assert tde_command("psql", "-D", data, "--", "-Atc", "SELECT 1").stdout == "1\n"
    tde_command("tablespace", "list", "-D", data)
    backup = ["pg_basebackup", "-D", os_user_tmp_path / "backup"]
    tde_command("pg", "exec", "-D", data, *passphrase, *backup)
    if os_user is not None:  # Root is nobody to the server, and neither is any other user.
        with pytest.raises(psycopg2.OperationalError, match="authentication failed"):
            psycopg2.connect(**made.connection_parameters())
    tde_command("pg", "stop", "-D", data)


def test_trust_has_to_be_asked_for(
    tde_command, keystore, encrypted_cluster_factory, os_user_tmp_path, any_binaries
):
    data = os_user_tmp_path / "data"
    encrypted_cluster_factory.track(Cluster(data, any_binaries))
    bindir = ["--bindir", any_binaries.bindir]
    init = ["pg", "init", "-D", data, "-k", keystore, "--passphrase-fd", 0, *bindir, "--"]
    refused = tde_command(*init, "--no-sync", "-U", "admin", exit_code=1)
    assert "must specify a password" in refused.stderr
    assert not data.exists()
    tde_command(*init, "--no-sync", "-U", "admin", "-A", "trust")
    assert rules(data) == {("local", "trust"), ("host", "trust")}


def test_options_with_half_a_quotation_are_refused(
    tde_command, encrypted_cluster_factory, any_binaries
):
    made = encrypted_cluster_factory(any_binaries, start=False)
    start = ["pg", "start", "-D", made.data_directory, "--passphrase-fd", 0]
    refused = tde_command(*start, "-o", "-c work_mem='1MB", exit_code=2)
    assert "Traceback" not in refused.stderr
    assert "No closing quotation" in refused.stderr
    # What an option cannot be is not blamed on the configuration.
    refused = tde_command(*start, "-o", "-p 99999", exit_code=1)
    assert "the server's options cannot be used" in refused.stderr
    assert "leave them out: -p 99999" in refused.stderr
