"""A passphrase is in no log, no statistics, no activity, whatever the server logs."""

from __future__ import annotations

import os
import re
import signal
import threading
from pathlib import Path

import psutil
import psycopg2
import pytest

from tde.keystore.store.files import exclusive_lock
from tde.postgres.extension.building import server_paths
from tde.postgres.facts import MAJOR_VERSIONS
from tests.extension.conftest import SqlCluster, make_sql_cluster
from tests.keystore.cheap_passphrase import PASSPHRASE
from tests.process_memory import written_memory
from tests.replication.test_keys_on_standbys import wait_for

MARK = "Zq7mark"
RIGHT = f"{MARK}-right-one"
WRONG = f"{MARK}-wrong-one"
SECRETS = (MARK, PASSPHRASE.decode())

EVERYTHING = {
    "logging_collector": "on",
    "log_directory": "log",
    "log_destination": "stderr,csvlog,jsonlog",
    "log_statement": "all",
    "log_min_duration_statement": "0",
    "log_duration": "on",
    "log_error_verbosity": "verbose",
    "log_min_messages": "debug1",
    "log_min_error_statement": "debug1",
    "log_parameter_max_length": "-1",
    "log_parameter_max_length_on_error": "-1",
    "debug_print_parse": "on",
    "debug_print_rewritten": "on",
    "debug_print_plan": "on",
    "track_activity_query_size": "1MB",
    "pg_stat_statements.track": "all",
    "pg_stat_statements.track_planning": "on",
    "auto_explain.log_min_duration": "0",
    "auto_explain.log_nested_statements": "on",
    "auto_explain.log_analyze": "on",
}
# The wheel's servers lack them.
OTHERS = ("pg_stat_statements", "auto_explain", "pgaudit")


def others_of(binaries) -> list[str]:
    libraries = server_paths(binaries).libraries
    return [name for name in OTHERS if (libraries / f"{name}.so").is_file()]


@pytest.fixture(
    scope="module",
    params=(
        pytest.param(True, id="tde-first", marks=pytest.mark.slow),
        pytest.param(False, id="tde-last"),
    ),
)
def made(request, binaries, extension, module_cluster_factory, module_os_user_tmp_path):
    """Hooks are called in the other order than libraries are loaded in."""
    others = others_of(binaries)
    if request.param and not others:
        pytest.skip("there are no other libraries")
    name = f"data-{binaries.major}-{request.param}"
    newer = MAJOR_VERSIONS[binaries.major].settings & {"debug_print_raw_parse"}
    everything = {**EVERYTHING, **dict.fromkeys(newer, "on")}
    order = ["tde", *others] if request.param else [*others, "tde"]
    made = make_sql_cluster(
        module_cluster_factory,
        binaries,
        extension,
        module_os_user_tmp_path / f"space-{name}",
        {**everything, "shared_preload_libraries": ",".join(order), "pgaudit.log": "all"},
        name=name,
    )
    made.others = others
    if "pg_stat_statements" in others:
        made.query("CREATE EXTENSION pg_stat_statements")
    made.query(f"SELECT tde_set_keystore_passphrase('{PASSPHRASE.decode()}', '{RIGHT}')")
    return made


def places(made: SqlCluster) -> dict[Path, bytes]:
    """Return all files but those of relations, WAL and the keystore."""
    directory = made.data_directory
    found = [path for path in directory.rglob("*") if path.is_file()]
    wanted = [path for path in found if path.relative_to(directory).parts[0] not in ("base",)]
    return {path: path.read_bytes() for path in [*wanted, made.cluster.default_log]}


def logged(made: SqlCluster) -> str:
    return "".join(content.decode(errors="replace") for content in places(made).values())


def is_ready(made: SqlCluster) -> bool:
    try:
        return made.query("SELECT 1") == [(1,)]
    except psycopg2.Error:
        return False


class Waiting(threading.Thread):
    """A session whose statement waits for the keystore, which is locked while this is entered."""

    def __init__(self, made: SqlCluster, statement: str) -> None:
        super().__init__()
        self.made = made
        self.error: psycopg2.Error | None = None
        self.statement = statement
        self.connection = psycopg2.connect(**made.cluster.connection_parameters("postgres"))
        self.connection.autocommit = True
        self.pid = self.connection.get_backend_pid()
        self.lock = exclusive_lock(made.keystore.path)

    def run(self) -> None:
        try:
            with self.connection.cursor() as cursor:
                cursor.execute(self.statement)
        except psycopg2.Error as error:
            self.error = error

    def commands(self) -> list[psutil.Process]:
        """Return what the session has started."""
        return [
            process
            for process in psutil.process_iter(["cmdline"])
            if str(self.made.data_directory) in (process.info["cmdline"] or [])
            and "act" in process.info["cmdline"]
        ]

    def __enter__(self) -> Waiting:
        self.lock.__enter__()
        self.start()
        wait_for(lambda: self.commands() != [])
        return self

    def __exit__(self, *error: object) -> None:
        self.lock.__exit__(None, None, None)
        self.join()
        self.connection.close()


def assert_not_shown(made: SqlCluster) -> None:
    """The views of statements, of sessions that are still there."""
    has_statistics = "pg_stat_statements" in made.others
    for view in ("pg_stat_activity", *(["pg_stat_statements"] if has_statistics else [])):
        shown = str(made.query(f"SELECT query FROM {view}"))  # Which does not name it itself.
        assert [secret for secret in SECRETS if secret in shown] == []


def assert_hidden(made: SqlCluster) -> None:
    assert_not_shown(made)
    contents = places(made)
    names = " ".join(map(str, contents))
    assert ".csv" in names
    assert ".json" in names
    assert ("pgss_query_texts.stat" in names) is ("pg_stat_statements" in made.others)
    for secret in SECRETS:
        # As text, and as the bytes of a constant in a tree.
        as_tree = " ".join(str(byte) for byte in secret.encode())
        leaks = [
            str(path)
            for path, content in contents.items()
            if secret.encode() in content or as_tree.encode() in content
        ]
        assert leaks == []


# What fails, at every stage from the scanner to the function, and says why to the client.
REFUSED = [
    (f"SELECT tde_open_keystore('{WRONG}')", "28P01"),
    (f"SELECT tde_open_keystore('{MARK}", "42601"),  # No quote at its end.
    (f"SELECT tde_open_keystore('{WRONG}' {MARK})", "42601"),
    (f'SELECT tde_open_keystore("{WRONG}")', "42703"),
    (f"SELECT tde_open_keystore('{WRONG}', '{WRONG}')", "42883"),
    (f"SELECT tde_open_keystore('{WRONG}'::{MARK})", "42704"),
    (f"SELECT tde_open_keystore('{WRONG}') FROM {MARK}", "42P01"),
    (f"SELECT tde_open_keystore(('{WRONG}'::int)::text)", "22P02"),
    (f"SELECT TDE_OPEN_KEYSTORE('{MARK}')", "22023"),  # Too short.
    (f"SELECT tde_set_keystore_passphrase('{WRONG}', '{RIGHT}2')", "28P01"),
    (f"SELECT tde_set_keystore_passphrase('{RIGHT}', '{MARK}')", "22023"),
    (f"SELECT tde_open_keystore('{RIGHT}'); SELECT tde_open_keystore('{RIGHT}')", "25001"),
    (f"BEGIN; SELECT tde_open_keystore('{RIGHT}')", "0A000"),
    (f"SELECT 1; SELECT tde_open_keystore('{RIGHT}')", "0A000"),
    (f"WITH p AS (SELECT '{RIGHT}' AS x) SELECT tde_open_keystore(x) FROM p", "0A000"),
    (f"SELECT tde_open_keystore('{RIGHT}'), 1", "0A000"),
    (f"SELECT tde_open_keystore(lower('{RIGHT}'))", "0A000"),
    (f"DO $$ BEGIN PERFORM tde_open_keystore('{RIGHT}'); END $$", "0A000"),
    (f"COPY (SELECT tde_open_keystore('{RIGHT}')) TO STDOUT", "0A000"),
    (f"EXPLAIN ANALYZE SELECT tde_open_keystore('{RIGHT}')", "0A000"),
    (f"CREATE TABLE t AS SELECT tde_open_keystore('{RIGHT}')", "0A000"),
    (f"CREATE VIEW v AS SELECT tde_open_keystore('{RIGHT}')", "0A000"),
    (f"DECLARE c CURSOR WITH HOLD FOR SELECT tde_open_keystore('{RIGHT}')", "0A000"),
    (f"PREPARE p AS SELECT tde_open_keystore('{RIGHT}')", "0A000"),
    (f"CREATE FUNCTION f() RETURNS void LANGUAGE sql AS $$SELECT tde_open_keystore('{RIGHT}')$$",
     "0A000"),
]  # fmt: skip


def test_statements_that_succeed_leave_no_passphrase(made):
    for call in ("tde_open_keystore", "tde_set_master_key"):
        made.query(f"SELECT {call}('{RIGHT}')")
    with made.session() as connection, connection.cursor() as cursor:
        # The session that has called it is still there, idle.
        cursor.execute(f"SELECT tde_open_keystore('{RIGHT}')")
        assert_hidden(made)
    # It is told that something was done, and how long it took.
    assert re.search(
        r"duration: \d+\.\d+ ms  <a statement with a passphrase for tde>", logged(made)
    )
    assert "has opened the keystore" in logged(made)
    assert made.query("SELECT count(*) FROM hidden") == [(100,)]


def test_statements_that_fail_leave_no_passphrase(made):
    for statement, code in REFUSED:
        with made.session() as connection, connection.cursor() as cursor:
            with pytest.raises(psycopg2.Error) as caught:
                cursor.execute(statement)
            assert caught.value.pgcode == code, statement
            # The session is still there, and pg_stat_activity has its last statement.
            assert_not_shown(made)
    assert_hidden(made)


def test_nothing_else_is_hidden_by_such_a_name(made):
    """Or whoever names a function in a comment is seen in no log and no audit."""
    made.query("CREATE TABLE IF NOT EXISTS seen (x int)")
    for statement in (
        "INSERT INTO seen VALUES (1) /* tde_open_keystore */",
        "INSERT INTO seen VALUES (1); SELECT 'tde_open_keystore'",
        "DO $$ BEGIN EXECUTE 'INSERT INTO seen VALUES (1) /* tde' || '_open_keystore */'; END $$",
        "COMMENT ON TABLE seen IS 'tde_open_keystore'",
        "GRANT SELECT ON seen TO PUBLIC /* pgx_open_keystore */",
        "COPY seen FROM PROGRAM 'echo 1 # tde_open_keystore'",
    ):
        error = made.fails(statement)
        assert error.pgcode == "0A000", statement
        assert "is called by SELECT only" in error.diag.message_primary
    assert made.query("SELECT * FROM seen") == []
    made.query("COMMENT ON FUNCTION tde_open_keystore(text) IS 'opens it'")
    made.query("GRANT EXECUTE ON FUNCTION tde_open_keystore(text) TO tde_admin")


def test_a_function_of_the_same_name_gets_no_passphrase(made):
    made.query("CREATE SCHEMA IF NOT EXISTS trap")
    made.query(
        r"""CREATE OR REPLACE FUNCTION trap.U&"tde\005fopen_keystore"(x text) RETURNS void """
        "LANGUAGE sql AS 'SELECT'"
    )
    error = made.fails(f"SELECT trap.tde_open_keystore('{RIGHT}')")
    assert error.pgcode == "0A000"
    made.query("DROP SCHEMA trap CASCADE")


def test_bound_parameters_are_hidden(made, run_psql):
    """The way that leaves not even a moment; and literals by the same protocol."""
    said = run_psql(
        made,
        f"SELECT tde_open_keystore($1) \\bind '{RIGHT}' \\g",
        f"SELECT tde_open_keystore('{RIGHT}') \\bind \\g",
        f"SELECT tde_open_keystore($1) \\bind '{WRONG}' \\g",
        f"SELECT tde_open_keystore($1, $2) \\bind '{WRONG}' '{WRONG}' \\g",
        f"SELECT tde_open_keystore('{WRONG}' \\bind \\g",
    )
    assert said.count("wrong passphrase") == 1
    assert_hidden(made)


def test_a_statement_that_waits_is_hidden_meanwhile(made):
    """pg_stat_statements writes the text of an entry that it has lost in between."""
    statement = f"SELECT tde_open_keystore('{RIGHT}')"
    with Waiting(made, statement) as waiting:
        shown = made.query("SELECT query FROM pg_stat_activity WHERE pid = %s", (waiting.pid,))
        assert shown == [("<a statement with a passphrase for tde>",)]
        if "pg_stat_statements" in made.others:
            made.query("SELECT pg_stat_statements_reset()")
    assert waiting.error is None
    assert_hidden(made)


@pytest.mark.parametrize("ends", ["pg_cancel_backend", "pg_terminate_backend"])
def test_a_statement_that_is_ended_leaves_nothing_behind(made, ends):
    with Waiting(made, f"SELECT tde_open_keystore('{RIGHT}')") as waiting:
        made.query(f"SELECT {ends}(%s)", (waiting.pid,))
        waiting.join()
        wait_for(lambda: waiting.commands() == [])
    # psycopg2 has no code where the connection was closed.
    assert waiting.error.pgcode == ("57014" if ends == "pg_cancel_backend" else None)
    assert_hidden(made)


def test_a_statement_that_kills_its_server_is_hidden(made):
    """The postmaster logs what a process that has crashed was doing."""
    with Waiting(made, f"SELECT tde_open_keystore('{RIGHT}')") as waiting:
        os.kill(waiting.pid, signal.SIGKILL)
        waiting.join()
        wait_for(lambda: waiting.commands() == [])
    wait_for(lambda: is_ready(made))
    assert "Failed process was running" in logged(made)
    assert_hidden(made)


def test_a_connection_for_replication_is_hidden_too(made):
    with made.session(replication="database") as connection, connection.cursor() as cursor:
        cursor.execute(f"SELECT tde_open_keystore('{RIGHT}')")
        assert_not_shown(made)
        with pytest.raises(psycopg2.Error):
            cursor.execute(f"SELECT tde_open_keystore('{WRONG}'")
        assert_not_shown(made)


def in_memory_of(pid: int, secret: bytes) -> int:
    """Count a secret in what a process has written to, shared memory included."""
    # Memory of keys cannot be read at all.
    return sum(piece.count(secret) for piece in written_memory(pid, largest=1 << 28))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can read a server's memory")
def test_no_other_process_has_it_in_memory(made):
    with made.session() as connection, connection.cursor() as cursor:
        cursor.execute(f"SELECT tde_open_keystore('{RIGHT}')")
        own = connection.info.backend_pid
        assert in_memory_of(own, RIGHT.encode()) > 0  # Or the search finds nothing.
        processes = [psutil.Process(made.cluster.pid)]
        processes += processes[0].children(recursive=True)
        others = [process.pid for process in processes if process.pid != own]
        assert len(others) > 3
        assert {pid: in_memory_of(pid, RIGHT.encode()) for pid in others} == dict.fromkeys(
            others, 0
        )
