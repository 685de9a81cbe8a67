"""Opening, closing and changing the keystore in SQL, and who may do it."""

from __future__ import annotations

import json

import psutil
import pytest

from tde.algorithms import Algorithm
from tde.keystore import Keystore
from tde.postgres.cluster.withholding import lock_tablespace, unlock_tablespace
from tde.postgres.server.published import read_published_status
from tests.extension.conftest import (
    SqlCluster,
    create_extension,
    make_sql_cluster,
    settings_of,
)
from tests.keystore.cheap_passphrase import PASSPHRASE
from tests.postgres.cluster_copies import base_backup, open_copy
from tests.replication.test_keys_on_standbys import wait_until_replayed

WORD = PASSPHRASE.decode()
CLOSED = "could not encrypt or decrypt data because the keystore is not open"
CLOSED_HINT = (
    "Open the existing keystore, or set the master encryption key to create and open a new keystore"
)
SECRET = ("--passphrase-fd", "0")


def oid_of(made: SqlCluster) -> int:
    return int(made.query("SELECT oid FROM pg_tablespace WHERE spcname = 'secret'")[0][0])


def test_the_keystore_is_closed_and_opened_in_sql(made, tde_command):
    made.query("SELECT tde_close_keystore()")
    assert read_published_status(made.cluster.pid).keys.closed
    for statement in ("SELECT * FROM hidden", "INSERT INTO hidden VALUES (1)"):
        error = made.fails(statement)
        assert (error.diag.message_primary, error.diag.message_hint) == (CLOSED, CLOSED_HINT)
        assert error.pgcode == "55000"
        assert "Required key not available" in error.diag.message_detail
    assert made.query("SELECT withheld FROM tde_tablespaces WHERE name = 'secret'") == [
        ("keystore closed",)
    ]
    made.query("SELECT tde_open_keystore(%s)", (WORD,))
    assert made.query("SELECT count(*) FROM hidden") == [(100,)]
    # What is done on the command line is the same.
    tde_command("keystore", "close", "-D", made.data_directory, *SECRET)
    assert made.fails("SELECT * FROM hidden").diag.message_primary == CLOSED
    made.query("SELECT tde_open_keystore(%s)", (WORD,))
    tde_command("keystore", "log", "-k", made.keystore.path, "--verify", *SECRET)
    log = tde_command("keystore", "log", "-k", made.keystore.path).stdout
    assert "close for sessions" in log
    assert "the passphrase, in SQL" in log


def test_a_locked_tablespace_has_its_own_words(made):
    oid = oid_of(made)
    lock_tablespace(made.cluster, made.keystore, oid)
    try:
        error = made.fails("SELECT * FROM hidden")
        assert error.diag.message_primary.endswith(f"because tablespace {oid} is locked")
        assert error.diag.message_hint == f"tde tablespace unlock {oid} -D DIR"
        shown = made.query("SELECT name FROM tde_tablespaces WHERE withheld = 'locked'")
        assert shown == [("secret",)]
    finally:
        unlock_tablespace(made.cluster, made.keystore, oid)


def test_other_processes_that_read_for_a_session_say_the_same(made):
    """Parallel workers, and from PostgreSQL 18 on the workers that read pages."""
    made.query(
        "CREATE TABLE IF NOT EXISTS large TABLESPACE secret AS "
        "SELECT n, repeat('x', 500) AS x FROM generate_series(1, 50000) n"
    )
    with made.session() as connection, connection.cursor() as cursor:
        cursor.execute("SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0")
        cursor.execute("SET min_parallel_table_scan_size = 0; BEGIN")
        cursor.execute("DECLARE c CURSOR FOR SELECT x FROM large")
        cursor.execute("FETCH 1 FROM c")
        made.query("SELECT tde_close_keystore()")
        with pytest.raises(Exception, match=CLOSED):
            cursor.execute("FETCH ALL FROM c")
    made.query("SELECT tde_open_keystore(%s)", (WORD,))


def test_the_master_key_is_set_in_sql(made, tde_command):
    before = json.loads(
        tde_command("keystore", "status", "-k", made.keystore.path, "--json").stdout
    )
    made.query("SELECT tde_close_keystore()")
    made.query("SELECT tde_set_master_key(%s)", (WORD,))  # Which opens it, too.
    assert made.query("SELECT count(*) FROM hidden") == [(100,)]
    after = json.loads(tde_command("keystore", "status", "-k", made.keystore.path, "--json").stdout)
    assert before["master_key_id"] != after["master_key_id"]
    with Keystore.open(made.keystore.path, PASSPHRASE) as keystore:
        keys = read_published_status(made.cluster.pid).keys
        assert keys.master_key_id == keystore.master_key_id


def test_a_rotation_in_sql_tells_which_ways_it_has_kept(made, tde_command):
    tde_command("keystore", "auto-open", "enable", "-k", made.keystore.path, *SECRET)
    try:
        with made.session() as connection, connection.cursor() as cursor:
            cursor.execute("SELECT tde_set_master_key(%s)", (WORD,))
            told = [notice.strip() for notice in connection.notices]
    finally:
        tde_command("keystore", "auto-open", "disable", "-k", made.keystore.path)
    assert told[0].startswith("NOTICE:  The master key is ")
    assert told[1:] == ["NOTICE:  The new master key opens by auto-open.key as well."]
    with made.session() as connection, connection.cursor() as cursor:
        cursor.execute("SELECT tde_set_master_key(%s)", (WORD,))
        last = connection.notices[-1].strip()
    assert last == "NOTICE:  The new master key opens by the passphrase only."


def test_the_passphrase_is_changed_in_sql(made):
    other = "another päßphrase"  # Bytes of UTF-8, whatever the encoding of the session.
    with made.session() as connection, connection.cursor() as cursor:
        connection.set_client_encoding("LATIN1")
        cursor.execute("SELECT tde_set_keystore_passphrase(%s, %s)", (WORD, other))
    Keystore.open(made.keystore.path, other.encode()).close()
    assert made.fails(f"SELECT tde_open_keystore('{WORD}')").pgcode == "28P01"
    assert made.fails(f"SELECT tde_set_keystore_passphrase('{other}', NULL)").pgcode == "22004"
    made.query("SELECT tde_set_keystore_passphrase(%s, %s)", (other, WORD))
    Keystore.open(made.keystore.path, PASSPHRASE).close()


def test_only_its_administrators_use_the_keystore(made):
    made.query("CREATE ROLE keeper LOGIN IN ROLE tde_admin")
    made.query("CREATE ROLE watcher LOGIN IN ROLE pg_monitor")
    made.query("CREATE ROLE nobody_special LOGIN")
    calls = (
        "SELECT tde_close_keystore()",
        f"SELECT tde_open_keystore('{WORD}')",
        f"SELECT tde_set_master_key('{WORD}')",
        f"SELECT tde_set_keystore_passphrase('{WORD}', '{WORD}2')",
    )
    views = [f"SELECT * FROM {name}" for name in ("tde_tablespaces", "tde_keys", "tde_activity")]
    for user in ("watcher", "nobody_special"):
        for call in calls:
            assert made.fails(call, user=user).pgcode == "42501"
    for view in views:
        assert made.fails(view, user="nobody_special").pgcode == "42501"
    # Who was granted the function alone is asked for the role as well.
    made.query("GRANT EXECUTE ON FUNCTION tde_close_keystore() TO nobody_special")
    error = made.fails("SELECT tde_close_keystore()", user="nobody_special")
    assert error.diag.message_primary == "permission denied for the keystore"
    for user in ("watcher", "keeper"):
        with made.session(user=user) as connection, connection.cursor() as cursor:
            for view in views:
                cursor.execute(view)
                assert cursor.fetchall()
    with made.session(user="keeper") as connection, connection.cursor() as cursor:
        cursor.execute(calls[0])
        cursor.execute(calls[1])
    assert made.query("SELECT count(*) FROM hidden") == [(100,)]


def test_the_views_say_what_the_commands_say(made, tde_command):
    shown = made.query("SELECT oid, name, algorithm, key_file FROM tde_tablespaces ORDER BY oid")
    listed = json.loads(
        tde_command("tablespace", "list", "-D", made.data_directory, "--json").stdout
    )
    assert [
        (row["oid"], row["name"], row["protection"], row["key_file"]) for row in listed
    ] == shown
    keys = made.query("SELECT owner, algorithm, id, file FROM tde_keys ORDER BY file")
    files = sorted(path.name for path in (made.keystore.path / "keys").iterdir())
    assert [file for *_, file in keys] == files
    assert {algorithm for _, algorithm, *_ in keys} == {Algorithm.AES256.label}


def activity(made: SqlCluster) -> dict[tuple[str, str | None], tuple[int, int]]:
    rows = made.query("SELECT * FROM tde_activity")
    return {(kind, tablespace): (written, read) for kind, tablespace, written, read in rows}


def test_activity_counts_bytes_by_class_and_tablespace(made):
    made.query("CHECKPOINT")
    before = activity(made)
    made.query("CREATE TABLE counted TABLESPACE secret AS SELECT repeat('x', 2000) AS x "
               "FROM generate_series(1, 4000)")  # fmt: skip
    made.query("CHECKPOINT")
    made.query("DROP TABLE counted")
    after = activity(made)
    assert set(after) == {
        *(("relation", name) for name in ("pg_default", "pg_global", "secret")),
        ("temporary", None),
        ("wal", None),
    }

    def grown(kind: str, tablespace: str | None) -> int:
        return after[kind, tablespace][0] - before[kind, tablespace][0]

    size = 1000 * 8192  # Four rows to a page.
    assert size <= grown("relation", "secret") < 1.2 * size
    assert grown("relation", "pg_default") < size
    assert grown("wal", None) >= size


def test_the_names_of_the_reference_products(made, extension):
    create_extension(made, extension, "tde_pgx")
    made.query("SELECT tde_close_keystore()")
    made.query("SELECT pgx_open_keystore(%s)", (WORD,))
    made.query("SELECT pgx_set_master_key(%s)", (WORD,))
    made.query("SELECT pgx_set_keystore_passphrase(%s, %s)", (WORD, f"{WORD}!"))
    made.query("SELECT pgx_set_keystore_passphrase(%s, %s)", (f"{WORD}!", WORD))
    shown = made.query(
        "SELECT spcname, spcencalgo FROM pg_tablespace t, pgx_tablespaces x "
        "WHERE t.oid = x.spctablespace ORDER BY 1"
    )
    assert shown == [(name, "AES256") for name in ("pg_default", "pg_global", "secret")]


def test_a_standby_has_its_own(
    binaries_older_slow, extension_newest, encrypted_cluster_factory, os_user_tmp_path
):
    options = {**settings_of(extension_newest), "allow_in_place_tablespaces": "on"}
    primary = make_sql_cluster(
        encrypted_cluster_factory,
        binaries_older_slow,
        extension_newest,
        os_user_tmp_path / "space",
        options,
    )
    primary.query("DROP TABLE hidden")
    primary.query("DROP TABLESPACE secret")  # Whose directory both would have.
    primary.query("CREATE TABLESPACE secret LOCATION ''")
    primary.query("CREATE TABLE hidden TABLESPACE secret AS SELECT generate_series(1, 100) AS n")
    directory = os_user_tmp_path / "standby"
    base_backup(primary, directory, "--write-recovery-conf", "--wal-method=stream")
    copy = open_copy(encrypted_cluster_factory, primary, directory, primary.keystore)
    copy.start(options)
    standby = SqlCluster(copy.cluster, copy.keystore)
    wait_until_replayed(primary, standby)
    keys = sorted((standby.keystore.path / "keys").iterdir())
    error = standby.fails(
        f"CREATE TABLESPACE x LOCATION '{os_user_tmp_path / 'x'}' "
        "WITH (tablespace_encryption_algorithm = 'AES128')"
    )
    assert error.pgcode == "25006"
    assert sorted((standby.keystore.path / "keys").iterdir()) == keys
    standby.query("SELECT tde_close_keystore()")
    assert standby.fails("SELECT * FROM hidden").diag.message_primary == CLOSED
    primary.query("INSERT INTO hidden SELECT generate_series(101, 200)")
    wait_until_replayed(primary, standby)
    standby.query("SELECT tde_open_keystore(%s)", (WORD,))
    assert standby.query("SELECT count(*) FROM hidden") == [(200,)]


def test_many_statements_in_one_message_cost_what_their_length_costs(made):
    """Each was looked for in the whole message: 5,000 took thirty seconds."""
    values = "('one_of_many_words_with_underscores')"
    with made.session() as connection, connection.cursor() as cursor:
        cursor.execute("CREATE TEMPORARY TABLE many (x text)")
        server = psutil.Process(connection.get_backend_pid())
        before = server.cpu_times()
        cursor.execute(f"INSERT INTO many VALUES {values}; " * 4000)
        after = server.cpu_times()
    assert (after.user + after.system) - (before.user + before.system) < 4
