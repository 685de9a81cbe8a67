"""Errors in the server's log quote neither rows nor statements, until a DBA asks for them."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
from pathlib import Path

import psutil
import psycopg2
import pytest

from tde.postgres.cluster.log_settings import (
    LOG_SECTION,
    UNDO_LOG_SETTINGS,
    add_log_settings,
    remove_log_settings,
)

CANARY = "canary-7f1a"

SETUP = """
    CREATE TABLE people(id int NOT NULL, name text UNIQUE, age int CHECK (age > 0));
    INSERT INTO people VALUES (1, 'canary-7f1a', 1);
    CREATE TABLE pets(owner text REFERENCES people(name));
    INSERT INTO pets VALUES ('canary-7f1a');
    CREATE TABLE spans(name text, span int4range, EXCLUDE USING gist (span WITH &&));
    CREATE FUNCTION fail(name text) RETURNS void LANGUAGE plpgsql AS
        'BEGIN EXECUTE format(''SELECT 1/0 AS %I'', name); END'
"""

# Each breaks a rule in another way; all but the last have the canary in row, statement or context.
FAILURES = (
    "INSERT INTO people VALUES (2, 'canary-7f1a', 1)",
    "INSERT INTO people VALUES (2, 'canary-7f1a-2', -1)",
    "INSERT INTO people VALUES (NULL, 'canary-7f1a-3', 1)",
    "INSERT INTO pets VALUES ('canary-7f1a-4')",
    "DELETE FROM people",
    "SELECT 1/0 WHERE 'canary-7f1a' <> ''",
    "SELECT 'canary-7f1a' FROM missing",
    "SELECT fail('canary-7f1a')",
    "UPDATE people SET age = 0 WHERE name = 'canary-7f1a'",
    "DO $$ BEGIN RAISE EXCEPTION 'plain' USING DETAIL = 'canary-7f1a'; END $$",
)


def fail_in_every_way(made) -> None:
    made.query(SETUP)
    for statement in FAILURES:
        with pytest.raises(psycopg2.Error):
            made.query(statement)
    with pytest.raises(psycopg2.Error):
        made.query("INSERT INTO people VALUES (%s, %s, %s)", (3, CANARY, 1))


def crash_a_session(made) -> None:
    """Kill a backend in the middle of a statement, which the postmaster reports."""
    connection = psycopg2.connect(**made.cluster.connection_parameters())
    pid = connection.info.backend_pid
    child = os.fork()
    if child == 0:
        with contextlib.suppress(BaseException):
            connection.cursor().execute("SELECT pg_sleep(60), 'canary-7f1a'")
        os._exit(0)
    while "SELECT" not in " ".join(psutil.Process(pid).cmdline()):
        pass
    os.kill(pid, signal.SIGSEGV)
    os.waitpid(child, 0)


def log_of(made) -> str:
    return made.cluster.default_log.read_text(errors="replace")


def test_rows_and_statements_stay_out_of_the_log(binaries, encrypted_cluster_factory):
    made = encrypted_cluster_factory(binaries)
    fail_in_every_way(made)
    log = log_of(made)
    assert "duplicate key value violates unique constraint" in log  # What happened is still there.
    assert 'relation "missing" does not exist' in log
    assert [line for line in log.splitlines() if CANARY in line] == []
    crash_a_session(made)
    while "was terminated by signal" not in (log := log_of(made)):
        pass
    assert CANARY not in log


def test_one_line_brings_them_back(any_binaries, encrypted_cluster_factory):
    made = encrypted_cluster_factory(any_binaries)
    for word in shlex.split(UNDO_LOG_SETTINGS):
        if word != "-c":
            made.query(word)
    fail_in_every_way(made)
    log = log_of(made)
    assert "DETAIL:  Key (name)=(canary-7f1a) already exists." in log
    assert "STATEMENT:  SELECT 'canary-7f1a' FROM missing" in log


def test_what_a_dba_has_set_wins(any_binaries, encrypted_cluster_factory):
    made = encrypted_cluster_factory(any_binaries, start=False)
    path = made.data_directory / "postgresql.conf"
    # In its place in the file, where initdb has left it as a comment.
    text = path.read_text().replace(
        "#log_error_verbosity = default", "log_error_verbosity = verbose"
    )
    path.write_text(text)
    made.start()
    assert made.query("SHOW log_error_verbosity") == [("verbose",)]
    assert made.query("SHOW log_min_error_statement") == [("panic",)]


def test_the_file_is_as_before_afterwards(tmp_path: Path):
    path = tmp_path / "postgresql.conf"
    path.write_bytes(b"port = 1\r\n# \xff\n")
    path.chmod(0o640)
    add_log_settings(path, None)
    add_log_settings(path, None)
    assert path.read_text(errors="replace").count(LOG_SECTION) == 1
    assert path.read_bytes().endswith(b"port = 1\r\n# \xff\n")
    remove_log_settings(path, None)
    assert path.read_bytes() == b"port = 1\r\n# \xff\n"
    assert path.stat().st_mode & 0o777 == 0o640
