"""CREATE TABLESPACE with the option of the reference products."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

import pytest

from tde.keystore import Keystore
from tde.postgres import Scope
from tests.extension.conftest import SqlCluster, make_sql_cluster, settings_of
from tests.keystore.cheap_passphrase import PASSPHRASE
from tests.postgres.cluster_copies import make_directory, open_copy
from tests.replication.test_keys_on_standbys import wait_for, wait_until_replayed

OPTION = "tablespace_encryption_algorithm"
SECRET = ("--passphrase-fd", "0")


@pytest.fixture
def location(made, os_user_tmp_path, os_user) -> Path:
    directory: Path = os_user_tmp_path / "new"
    directory.mkdir()
    if os_user is not None:
        os.chown(directory, os_user.uid, os_user.gid)
    return directory


def algorithm_of(made: SqlCluster, name: str) -> str:
    ((algorithm,),) = made.query("SELECT algorithm FROM tde_tablespaces WHERE name = %s", (name,))
    return str(algorithm)


def test_the_algorithm_of_the_cluster_needs_no_key_of_its_own(made, location):
    before = sorted((made.keystore.path / "keys").iterdir())
    made.query(f"CREATE TABLESPACE usual LOCATION '{location}' WITH ({OPTION} = 'AES256')")
    assert algorithm_of(made, "usual") == "AES-256-XTS"
    assert sorted((made.keystore.path / "keys").iterdir()) == before
    made.query("CREATE TABLE t TABLESPACE usual AS SELECT 1 AS n")
    options = made.query("SELECT spcoptions FROM pg_tablespace WHERE spcname = 'usual'")
    assert options == [(None,)]
    error = made.fails(f"ALTER TABLESPACE usual SET ({OPTION} = AES128)")
    assert "keeps the key that it began with" in error.diag.message_primary
    made.query("DROP TABLE t")
    made.query("DROP TABLESPACE usual")


def test_another_algorithm_gets_a_key_of_its_own(made, location, tde_command):
    made.query(
        f"CREATE TABLESPACE small LOCATION '{location}' WITH ({OPTION} = aes128, seq_page_cost = 2)"
    )
    assert algorithm_of(made, "small") == "AES-128-XTS"
    made.query("CREATE TABLE s TABLESPACE small AS SELECT generate_series(1, 10) AS n")
    ((options, place),) = made.query(
        "SELECT spcoptions, pg_tablespace_location(oid) FROM pg_tablespace WHERE spcname = 'small'"
    )
    assert options == ["seq_page_cost=2"]
    assert Path(place).parent == location
    assert Path(place).name.startswith("tde-")
    # The keystore opens the record that the server has made, and its log is whole.
    tde_command("keystore", "verify", "-k", made.keystore.path, *SECRET)
    tde_command("keystore", "log", "-k", made.keystore.path, "--verify", *SECRET)
    made.query("DROP TABLE s")
    made.query("DROP TABLESPACE small")


def test_what_cannot_be_is_refused_before_a_key_is_made(made, location):
    made.query("CREATE ROLE maker LOGIN")
    before = sorted((made.keystore.path / "keys").iterdir())
    create = f"CREATE TABLESPACE {{}} LOCATION '{location}' WITH ({OPTION} = {{}})"
    error = made.fails(create.format("x", "'DES'"))
    assert error.diag.message_hint == "Available values: AES128, AES256, none."
    assert "no tablespaces in plain text" in str(made.fails(create.format("x", "none")))
    assert made.fails(create.format("secret", "AES128")).pgcode == "42710"
    assert made.fails(create.format("x", "AES128"), user="maker").pgcode == "42501"
    assert made.fails(f"BEGIN; {create.format('x', 'AES128')}").pgcode == "25001"
    read_only = {"options": "-c default_transaction_read_only=on"}
    assert made.fails(create.format("x", "AES128"), **read_only).pgcode == "25006"
    assert made.fails(create.format("pg_x", "AES128")).pgcode == "42939"
    assert made.fails(create.format("x OWNER nobody_known", "AES128")).pgcode == "42704"
    assert made.fails(create.format("x", "AES128, no_option = 1")).pgcode == "22023"
    made.query("SELECT tde_close_keystore()")
    error = made.fails(create.format("x", "AES256"))
    assert "the keystore is not open" in error.diag.message_primary
    made.query("SELECT tde_open_keystore(%s)", (PASSPHRASE.decode(),))
    assert sorted((made.keystore.path / "keys").iterdir()) == before


@pytest.mark.parametrize(
    "place", ["/a\nb", "/a\rb", "/a\x7fb", "/a''b", "a", "", "/" + 60 * "a long location/"]
)
def test_a_location_that_cannot_be_is_refused_before_a_key_is_made(made, place):
    """The command answers with a line: with a line break, the answer was another directory."""
    before = sorted((made.keystore.path / "keys").iterdir())
    error = made.fails(f"CREATE TABLESPACE x LOCATION '{place}' WITH ({OPTION} = 'AES128')")
    assert error.pgcode in ("42602", "42P17")
    assert sorted((made.keystore.path / "keys").iterdir()) == before


@pytest.mark.parametrize("place", ["/proc/none", "{data}/in", "/etc/passwd"])
def test_a_directory_that_cannot_be_made_costs_no_key(made, place):
    before = sorted((made.keystore.path / "keys").iterdir())
    named = place.format(data=made.data_directory)
    error = made.fails(f"CREATE TABLESPACE x LOCATION '{named}' WITH ({OPTION} = 'AES128')")
    assert error.pgcode == "38000"
    assert sorted((made.keystore.path / "keys").iterdir()) == before


def test_a_key_that_cannot_be_stored_leaves_no_directory(made, location, os_user):
    before = sorted((made.keystore.path / "keys").iterdir())
    # As after a rotation that was interrupted.
    unfinished = made.keystore.path / "keys.new"
    unfinished.mkdir()
    try:
        error = made.fails(f"CREATE TABLESPACE x LOCATION '{location}' WITH ({OPTION} = 'AES128')")
        assert error.pgcode == "38000"
    finally:
        unfinished.rmdir()
    assert list(location.iterdir()) == []
    assert sorted((made.keystore.path / "keys").iterdir()) == before


def test_in_scope_tablespaces_it_says_what_is_encrypted(
    binaries_older_slow, extension_newest, encrypted_cluster_factory, os_user_tmp_path
):
    made = make_sql_cluster(
        encrypted_cluster_factory,
        binaries_older_slow,
        extension_newest,
        os_user_tmp_path / "space",
        scope=Scope.TABLESPACES,
    )
    place = os_user_tmp_path / "made"
    assert "Required key" in str(made.fails(f"CREATE TABLESPACE x LOCATION '{os_user_tmp_path}'"))
    for name, value in (("closed", "AES256"), ("open", "none")):
        made.query(f"CREATE TABLESPACE {name} LOCATION '{place}' WITH ({OPTION} = '{value}')")
        made.query(f"CREATE TABLE in_{name} TABLESPACE {name} AS SELECT repeat('canary', 9) AS x")
    made.query("CHECKPOINT")
    shown = made.query("SELECT name, encrypted FROM tde_tablespaces ORDER BY oid")
    assert shown == [("pg_default", False), ("pg_global", False), ("secret", True),
                     ("closed", True), ("open", False)]  # fmt: skip
    # After a rotation, the server has the new master key for the next one.
    made.query(f"SELECT tde_set_master_key('{PASSPHRASE.decode()}')")
    made.query(f"CREATE TABLESPACE later LOCATION '{place}' WITH ({OPTION} = 'AES256')")
    made.cluster.stop()
    made.keystore.close()
    made.keystore = Keystore.open(made.keystore.path, PASSPHRASE)
    with made.keystore:
        made.start(settings_of(extension_newest))
        assert made.query("SELECT * FROM in_closed") == [("canary" * 9,)]
        found = [path for path in place.rglob("*") if path.is_file()]
        plain = [path for path in found if b"canary" in path.read_bytes()]
        locations = made.query("SELECT pg_tablespace_location(oid) FROM pg_tablespace "
                               "WHERE spcname = 'open'")  # fmt: skip
        assert plain
        assert all(str(path).startswith(locations[0][0]) for path in plain)


def test_a_standby_with_another_keystore_is_not_left_behind(
    binaries_older_slow,
    extension_newest,
    encrypted_cluster_factory,
    os_user_tmp_path,
    tde_command,
):
    """The accident: SQL cannot wait until the standby has the key, which would stop without it."""
    made = make_sql_cluster(
        encrypted_cluster_factory,
        binaries_older_slow,
        extension_newest,
        os_user_tmp_path / "space",
    )
    made.query("DROP TABLE hidden")
    made.query("DROP TABLESPACE secret")  # Whose directory both would have.
    copy, directory = os_user_tmp_path / "copy", os_user_tmp_path / "standby"
    tde_command("keystore", "sync", copy, "-k", made.keystore.path)
    parameters = made.cluster.connection_parameters()
    conninfo = " ".join(f"{key}={parameters[key]}" for key in ("host", "port", "user"))
    settings = {**settings_of(extension_newest), "listen_addresses": ""}
    options = shlex.join(word for name in settings for word in ("-c", f"{name}={settings[name]}"))
    tde_command(
        *("pg", "standby", directory, "--primary", conninfo, "--keystore", copy, *SECRET),
        *("--bindir", binaries_older_slow.bindir, "-o", options),
    )
    standby = open_copy(encrypted_cluster_factory, made, directory, made.keystore)
    made.query("CREATE TABLE sent AS SELECT 1 AS n")
    wait_until_replayed(made, standby)
    before = sorted((made.keystore.path / "keys").iterdir())
    location = make_directory(made, os_user_tmp_path / "new")
    create = f"CREATE TABLESPACE small LOCATION '{location}' WITH ({OPTION} = aes128)"
    assert "keystore of its own" in str(made.fails(create))
    assert sorted((made.keystore.path / "keys").iterdir()) == before
    standby.cluster.stop()
    wait_for(lambda: made.query("SELECT count(*) FROM pg_stat_replication") == [(0,)])
    made.query(create)
