"""An encrypted cluster of pg_createcluster, started and stopped by pg_ctlcluster."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tde.postgres.server.os_user import current_user_name
from tests import installations
from tests.postgres.service.debian import Site, is_installed

_MAJORS = [
    major
    for major, found in installations.tested_installations().items()
    if installations.is_packaged(found)
]

pytestmark = pytest.mark.skipif(
    not (_MAJORS and is_installed()), reason="there is no PostgreSQL of postgresql-common"
)

CANARY = "canary-of-a-debian-cluster"


@pytest.fixture
def major() -> int:
    return _MAJORS[0]


@pytest.fixture
def site(os_user_tmp_path, os_user, monkeypatch):
    made = Site.make(os_user_tmp_path, os_user)
    monkeypatch.setenv("PG_CLUSTER_CONF_ROOT", str(made.root / "etc"))
    yield made
    for cluster, state in made.listed().items():
        if state.startswith("online"):
            made.control(*cluster.split("/"), "stop")


@pytest.fixture
def keystore(keystore_factory):
    keystore = keystore_factory("ks")
    keystore.enable_auto_open()
    return keystore


@pytest.fixture
def encrypted(site, major, keystore, tde_command) -> Path:
    """A cluster with a row, encrypted after it was used in plain text."""
    data = site.create(major, "main")
    site.control(major, "main", "start")
    psql(tde_command, data, "CREATE TABLE t AS SELECT 'before'::text AS a")
    site.control(major, "main", "stop")
    tde_command("pg", "encrypt", "-D", data, "-k", keystore.path, "--passphrase-fd", 0)
    return data


def psql(tde_command, data: Path, statement: str) -> str:
    """Ask a server with peer authentication, for whom root is nobody."""
    shown = tde_command("psql", "-D", data, "--", "-XAtqc", statement).stdout
    return str(shown).strip()


def register(tde_command, site, major, *options: object, **arguments: int):
    where = ("--bin", site.root / "bin")
    return tde_command("pg", "register", f"{major}/main", *where, *options, **arguments)


def test_a_registered_cluster_is_started_as_a_plain_one(site, encrypted, major, tde_command):
    # Before that, Debian's own start is stopped with words that name tde.
    assert "tde-start-this-cluster-with-tde" in site.control(major, "main", "start", exit_code=1)
    shown = register(tde_command, site, major).stdout
    assert f"pg_ctlcluster {major} main start" in shown
    site.control(major, "main", "start")
    assert site.listed() == {f"{major}/main": "online"}
    assert psql(tde_command, encrypted, "SELECT a FROM t") == "before"
    psql(tde_command, encrypted, f"INSERT INTO t VALUES ('{CANARY}'); CHECKPOINT")
    for verb in ("restart", "reload", "status"):
        site.control(major, "main", verb)
    assert psql(tde_command, encrypted, "SELECT count(*) FROM t") == "2"
    site.control(major, "main", "stop")
    written = b"".join(file.read_bytes() for file in encrypted.rglob("*") if file.is_file())
    assert CANARY.encode() not in written


def test_registering_twice_and_taking_it_back(site, encrypted, major, tde_command):
    options = site.root / "etc" / str(major) / "main" / "pg_ctl.conf"
    options.write_text(options.read_text().replace("''", "'-t 61'"))
    before, status = options.read_bytes(), options.stat()
    register(tde_command, site, major)
    register(tde_command, site, major)
    line = f"pg_ctl_options = '-p {site.root}/bin/postgres -t 61'"
    assert options.read_text().count("-p ") == 1
    assert line in options.read_text()
    changed = options.stat()
    assert (changed.st_mode, changed.st_uid) == (status.st_mode, status.st_uid)
    shown = tde_command("pg", "unregister", f"{major}/main").stdout
    assert "PostgreSQL's own server" in shown
    # Which does not start it, so that is not all that is said.
    assert f"will not start it: tde pg start -D {encrypted}" in shown
    assert options.read_bytes() == before
    assert "is not registered" in tde_command("pg", "unregister", f"{major}/main").stdout
    site.control(major, "main", "start", exit_code=1)


def test_all_the_way_from_plain_to_plain(site, encrypted, major, keystore, tde_command):
    register(tde_command, site, major)
    site.control(major, "main", "start")
    space = site.root / "space"
    by_fd = ("--passphrase-fd", 0)
    tde_command("tablespace", "create", "own", "--location", space, "-D", encrypted, *by_fd)
    psql(tde_command, encrypted, "CREATE TABLE u TABLESPACE own AS SELECT 7 AS b")
    site.control(major, "main", "stop")
    tde_command("pg", "decrypt", "-D", encrypted, *by_fd)
    # The stand-ins give no keys to a plain cluster, and without them it is as it was.
    for _ in range(2):
        site.control(major, "main", "start")
        assert psql(tde_command, encrypted, "SELECT a, b FROM t, u") == "before|7"
        site.control(major, "main", "stop")
        tde_command("pg", "unregister", f"{major}/main", exit_code=None)


def test_what_cannot_be_registered_is_refused(site, major, keystore, keystore_factory, tde_command):
    data = site.create(major, "main")
    missing = tde_command("pg", "register", f"{major}/other", exit_code=None)
    assert missing.returncode != 0
    assert f"found: {major}/main" in missing.stderr
    plain = register(tde_command, site, major, exit_code=5)
    assert "is not encrypted" in plain.stderr
    tde_command("pg", "encrypt", "-D", data, "-k", keystore.path, "--passphrase-fd", 0)
    options = site.root / "etc" / str(major) / "main" / "pg_ctl.conf"
    options.write_text("pg_ctl_options = '-p/usr/local/bin/postgres'\n")
    refused = register(tde_command, site, major, exit_code=None)
    assert "names another server program: /usr/local/bin/postgres" in refused.stderr
    assert not (site.root / "bin").exists()
    options.write_text("")
    other = keystore_factory("other")
    other.enable_auto_open()
    by_fd = ("--passphrase-fd", 0)
    tde_command("pg", "install-bin", site.root / "others", "-k", other.path, *by_fd)
    taken = ("pg", "register", f"{major}/main", "--bin", site.root / "others")
    assert "hand over the keys of" in tde_command(*taken, exit_code=None).stderr
    tde_command("keystore", "auto-open", "disable", "-k", keystore.path)
    refused = register(tde_command, site, major, exit_code=None)
    assert refused.returncode != 0
    assert "does not open by itself" in refused.stderr + refused.stdout


@pytest.mark.skipif(os.geteuid() != 0, reason="root connects as the server's user")
def test_root_works_on_a_server_with_peer_authentication(
    site, encrypted, major, tde_command, keystore
):
    register(tde_command, site, major)
    site.control(major, "main", "start")
    by_fd = ("--passphrase-fd", 0)
    space = site.root / "space"
    tde_command("tablespace", "create", "own", "--location", space, "-D", encrypted, *by_fd)
    assert "own" in tde_command("tablespace", "list", "-D", encrypted).stdout
    tde_command("tablespace", "move", "--from", "pg_default", "--to", "own", "-D", encrypted)
    backup = site.root / "data" / "backup"
    place = psql(tde_command, encrypted, "SELECT pg_tablespace_location(oid) FROM pg_tablespace "
                 "WHERE spcname = 'own'")  # fmt: skip
    where = ("-T", f"{place}={site.root}/data/backup-space")
    tde_command("pg", "exec", "-D", encrypted, *by_fd, "pg_basebackup", "-D", backup, *where)
    assert (backup / "PG_VERSION").exists()
    log = (site.root / "main.log").read_text()
    assert "Peer authentication failed" not in log
    shown = tde_command("pg", "exec", "-D", encrypted, "psql", "-Atqc", "SELECT 1", "postgres")
    assert shown.stdout == "1\n"


def test_a_drop_in_names_the_user_who_may_read_the_credential(site, major, tde_command):
    site.create(major, "main")
    unit = ("pg", "unit", f"{major}/main")
    owner = current_user_name() if site.os_user is None else site.os_user.name
    shown = tde_command(*unit, "--credential", "tde:/etc/hostname").stdout.splitlines()
    assert shown.index(f"User={owner}") == shown.index("[Service]") + 1
    assert "LoadCredential=tde:/etc/hostname" in shown
    assert "User=" not in tde_command(*unit).stdout
