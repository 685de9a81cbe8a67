"""The checks of the reference system's verification report, on one machine."""

from __future__ import annotations

from pathlib import Path

import psycopg2
import pytest

from tests.postgres.canaries import files_with
from tests.postgres.cluster_copies import open_copy
from tests.replication.test_keys_on_standbys import wait_until_replayed
from tests.replication.test_standby_commands import OPTIONS, QUIET, conninfo

SECRET = ("--passphrase-fd", "0")
ROW = "hoge"
MESSAGE = "could not encrypt or decrypt data because the keystore is not open"


def test_chapters_3_and_4_of_the_report(
    binaries, encrypted_cluster_factory, os_user_tmp_path: Path, tde_command
) -> None:
    primary = encrypted_cluster_factory(binaries, options=OPTIONS)
    keystore = primary.keystore.path
    location = os_user_tmp_path / "enc_space"
    tde_command(
        *("tablespace", "create", "enc_space", "-D", primary.data_directory),
        *("--location", location, "--aes", 256, *SECRET),
    )
    primary.query("ALTER SYSTEM SET default_tablespace = 'enc_space'")
    primary.query("SELECT pg_reload_conf()")

    copy, directory = os_user_tmp_path / "copy", os_user_tmp_path / "standby"
    tde_command("keystore", "sync", copy, "-k", keystore)
    tde_command("keystore", "auto-open", "enable", "-k", copy, *SECRET)
    (space,) = location.iterdir()
    tde_command(
        *("pg", "standby", directory, "--primary", conninfo(primary), "--keystore", copy),
        *("--bindir", binaries.bindir, "-o", QUIET),
        *("-T", f"{space}={os_user_tmp_path / space.name}"),
    )
    standby = open_copy(encrypted_cluster_factory, primary, directory, None)

    primary.query("CREATE TABLE t1 (c text)")
    primary.query("INSERT INTO t1 VALUES (%s)", (ROW,))
    where = "SELECT spcname FROM pg_tablespace JOIN pg_class c ON reltablespace = pg_tablespace.oid"
    assert primary.query(f"{where} WHERE relname = 't1'") == [("enc_space",)]
    wait_until_replayed(primary, standby)
    assert standby.query("SELECT c FROM t1") == [(ROW,)]

    # Auto-open is disabled on the standby, which is restarted: it starts for replication only.
    tde_command("keystore", "auto-open", "disable", "-k", copy)
    tde_command("pg", "stop", "-D", directory)
    tde_command("pg", "start", "-D", directory, "-o", QUIET, exit_code=5)
    with_wal_only = ("keystore", "auto-open", "enable", "--level", "wal", "-k", copy)
    host_key = os_user_tmp_path / "host.key"
    tde_command(*with_wal_only, "--bind", f"host-secret:{host_key}", *SECRET)
    tde_command("pg", "start", "-D", directory, "-o", QUIET)
    with pytest.raises(psycopg2.Error, match="Required key not available"):
        standby.query("SELECT c FROM t1")
    assert MESSAGE in standby.cluster.default_log.read_text()
    primary.query("INSERT INTO t1 VALUES ('more')")
    wait_until_replayed(primary, standby)

    # Opened again, it can be read again.
    tde_command("keystore", "open", "-D", directory, *SECRET)
    assert standby.query("SELECT c FROM t1") == [(ROW,), ("more",)]
    for node in (primary, standby):
        node.query("CHECKPOINT")
        # A row of four letters: its length byte, and the letters.
        assert files_with(b"\x0b" + ROW.encode(), node.data_directory, location) == []
