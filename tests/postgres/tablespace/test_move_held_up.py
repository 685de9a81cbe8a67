"""Moves that others hold up, that are ended or stopped, and what the next command makes of it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import psutil
import psycopg2
import pytest

from tde.postgres import MoveOptions, move_tablespace
from tests.postgres.tablespace.movables import make_spaces, places

TDE = Path(sys.executable).with_name("tde")
INVALID = "SELECT indexrelid::regclass::text FROM pg_index WHERE NOT indisvalid"
# Its index takes long to build when `slow` says so, and is quick else.
SLOW_INDEX = """
CREATE TABLE slowly (n int) TABLESPACE old;
CREATE FUNCTION same(n int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS
    $$BEGIN IF current_setting('tests.slow', true) = 'on' THEN PERFORM pg_sleep(0.1); END IF;
    IF current_setting('tests.slow', true) = 'never' THEN RAISE 'not today'; END IF;
    RETURN n; END$$;
INSERT INTO slowly SELECT generate_series(1, 300);
CREATE INDEX on_same ON slowly (same(n)) TABLESPACE old;
ALTER DATABASE postgres SET tests.slow = 'on';
"""
BUILDS = "SELECT 1 FROM pg_stat_progress_create_index WHERE phase LIKE 'building%'"


@pytest.fixture
def made(any_binaries, encrypted_cluster_factory):
    """A running cluster with the tablespaces ``old`` and ``new``."""
    return with_spaces(encrypted_cluster_factory(any_binaries))


@pytest.fixture
def made_each(binaries_older_slow, encrypted_cluster_factory):
    """The same of each version."""
    return with_spaces(encrypted_cluster_factory(binaries_older_slow))


def with_spaces(cluster):
    make_spaces(cluster, "old", "new")
    return cluster


def move(made, *arguments: object) -> list[str]:
    return [
        *(str(TDE), "tablespace", "move", "--from", "old", "--to", "new"),
        *("-D", str(made.data_directory), *map(str, arguments)),
    ]


def moved(made, *arguments: object, exit_code: int = 0) -> Any:
    """Run the command to its end, and return what it prints as JSON."""
    result = subprocess.run(
        move(made, "--json", *arguments), capture_output=True, text=True, timeout=120
    )
    assert result.returncode == exit_code, result.stdout + result.stderr
    return json.loads(result.stdout)


def names(found: list[dict[str, Any]]) -> list[str]:
    return sorted(one["name"] for one in found)


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_who_holds_a_lock_is_named_and_nobody_queues_behind_the_move(made_each):
    made = made_each
    for name in ("held", "free"):
        made.query(f"CREATE TABLE {name} TABLESPACE old AS SELECT generate_series(1, 300) AS n")
        made.query(f"CREATE INDEX {name}_n ON {name} (n) TABLESPACE old")
    parameters = made.cluster.connection_parameters()
    with closing(psycopg2.connect(**parameters, application_name="the report")) as session:
        session.cursor().execute("SELECT count(*) FROM held")
        pid = session.info.backend_pid
        command = subprocess.Popen(
            move(made, "--json", "--lock-timeout", 0.5, "--attempts", 3),
            stdout=subprocess.PIPE,
            text=True,
        )
        # Others are held up for no longer than the timeout, however long it tries.
        longest = 0.0
        while command.poll() is None:
            begun = time.monotonic()
            made.query("SELECT count(*) FROM held")
            longest = max(longest, time.monotonic() - begun)
        assert 0.3 < longest < 4
        assert command.returncode == 1
        result = json.loads(command.communicate()[0])
    assert not result["complete"]
    assert names(result["moved"]) == ["public.free", "public.free_n"]
    assert names(result["left"]) == ["public.held", "public.held_n"]
    for left in result["left"]:
        assert left["why"] == "locked"
        # A query of above may have begun at the same moment as an attempt.
        assert f"pid {pid} (the report, idle in transaction)" in left["reason"]
        assert len(left["reason"]) <= 2
    assert made.query(INVALID) == []  # It has not begun an index that could not be finished.

    told = subprocess.run(move(made), capture_output=True, text=True, timeout=60)
    assert told.returncode == 0, told.stderr
    assert "Moved 2 objects" in told.stdout
    assert "old is empty: DROP TABLESPACE old is possible" in told.stdout


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_index_that_is_being_built_leaves_nothing_behind(
    binaries_older_slow, encrypted_cluster_factory, number
):
    made = with_spaces(encrypted_cluster_factory(binaries_older_slow))
    made.query(SLOW_INDEX)
    (before,) = places(made)["on_same"]
    command = subprocess.Popen(
        move(made), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    wait_for(lambda: made.query(BUILDS))
    assert len(made.query(INVALID)) == 1
    begun = time.monotonic()
    command.send_signal(number)
    output, errors = command.communicate(timeout=60)
    assert time.monotonic() - begun < 10
    assert command.returncode == 130, errors
    assert "Not moved: 2 objects" in output or "Not moved: 1 objects" in output
    assert "index public.on_same" in output
    assert made.query(INVALID) == []
    assert places(made)["on_same"] == {before}
    assert made.query(
        "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'tde%'"
    ) == [(0,)]
    made.query("ALTER DATABASE postgres RESET tests.slow")
    assert moved(made)["droppable"]
    assert places(made)["on_same"] != {before}


def test_what_an_index_waits_for_is_told_and_waiting_harms_nobody(made):
    made.query(SLOW_INDEX)
    made.query("DELETE FROM slowly WHERE n > 20")
    command = subprocess.Popen(
        move(made), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    wait_for(lambda: made.query(BUILDS))
    parameters = made.cluster.connection_parameters()
    with closing(psycopg2.connect(**parameters, application_name="the report")) as session:
        session.cursor().execute("SELECT count(*) FROM slowly")
        pid = session.info.backend_pid
        told = command.stderr.readline()
        assert told == f"public.on_same waits for pid {pid} (the report, idle in transaction)\n"
        made.query("INSERT INTO slowly VALUES (21)")
    output, _ = command.communicate(timeout=60)
    assert command.returncode == 0, output
    assert made.query(INVALID) == []
    assert made.query("SELECT count(*) FROM slowly WHERE same(n) > 0") == [(21,)]


def test_an_index_is_begun_although_another_session_of_a_move_copies(made):
    made.query("CREATE TABLE t TABLESPACE old AS SELECT 1 AS n")
    made.query("CREATE INDEX i ON t (n) TABLESPACE old")
    parameters = made.cluster.connection_parameters()
    with closing(psycopg2.connect(**parameters, application_name="tde tablespace move")) as other:
        other.set_session(isolation_level="REPEATABLE READ")
        other.cursor().execute("SELECT 1")
        command = subprocess.Popen(
            move(made, "--attempts", 1, "--lock-timeout", 0.2), stdout=subprocess.PIPE, text=True
        )
        wait_for(lambda: command.poll() is not None or len(made.query(INVALID)) == 1)
        assert command.poll() is None
    output, _ = command.communicate(timeout=60)
    assert command.returncode == 0, output
    assert made.query(INVALID) == []


def test_what_the_server_refuses_is_named_and_leaves_nothing_behind(made):
    made.query(SLOW_INDEX.replace("'on';", "'never';"))
    result = moved(made, exit_code=1)
    assert names(result["moved"]) == ["public.slowly"]
    (left,) = result["left"]
    assert (left["name"], left["why"]) == ("public.on_same", "failed")
    assert "not today" in left["reason"][0]
    assert result["leftovers"] == []
    assert made.query(INVALID) == []


NOTED = """
CREATE TABLE noted (tag text);
CREATE FUNCTION note() RETURNS event_trigger LANGUAGE plpgsql AS
    $$BEGIN INSERT INTO noted VALUES (tg_tag); END$$;
CREATE EVENT TRIGGER noting ON ddl_command_end EXECUTE FUNCTION note();
"""
RENAMED = """
CREATE TABLE first (n int) TABLESPACE old;
CREATE FUNCTION rename() RETURNS event_trigger LANGUAGE plpgsql AS
    $$BEGIN IF EXISTS (SELECT FROM pg_tablespace WHERE spcname = 'new') THEN
    ALTER TABLESPACE new RENAME TO newer; END IF; END$$;
CREATE EVENT TRIGGER renaming ON ddl_command_end EXECUTE FUNCTION rename();
"""
OWN_NAMES = """
CREATE FUNCTION inner_one(n int) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT n';
CREATE FUNCTION outer_one(n int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS
    $$BEGIN RETURN inner_one(n); END$$;
CREATE INDEX by_outer_one ON t (outer_one(n)) TABLESPACE old;
"""


def test_code_of_others_finds_its_tables_and_what_it_lacks_is_told(
    binaries_older_slow, encrypted_cluster_factory
):
    made = with_spaces(encrypted_cluster_factory(binaries_older_slow))
    made.query("CREATE TABLE t TABLESPACE old AS SELECT generate_series(1, 3000) AS n")
    made.query("CREATE INDEX i ON t (n) TABLESPACE old")
    if binaries_older_slow.major < 17:  # Newer servers build indexes with a path of their own.
        made.query(OWN_NAMES)
    # A table of the name of a catalog is not taken for it.
    made.query("CREATE TABLE pg_index (); ALTER DATABASE postgres SET search_path = public")
    made.query(NOTED)
    assert moved(made)["droppable"]
    assert ("ALTER TABLE",) in made.query("SELECT tag FROM noted")

    made.query("DROP EVENT TRIGGER noting; ALTER TABLE noted RENAME TO lost")
    made.query("ALTER TABLE t SET TABLESPACE old; ALTER INDEX i SET TABLESPACE old")
    made.query("CREATE EVENT TRIGGER noting ON ddl_command_end EXECUTE FUNCTION note()")
    (left,) = [one for one in moved(made, exit_code=1)["left"] if one["kind"] == "table"]
    assert left["why"] == "failed"
    assert 'relation "noted" does not exist' in left["reason"][0]

    made.query("DROP EVENT TRIGGER noting")
    # As if somebody had renamed the new tablespace meanwhile.
    made.query(RENAMED)
    (left,) = [one for one in moved(made, exit_code=1)["left"] if one["name"] == "public.t"]
    assert left["why"] == "failed"
    assert 'tablespace "new" does not exist' in left["reason"][0]


def test_nothing_more_is_tried_once_the_disk_is_full(made):
    full = "RAISE 'could not extend file' USING ERRCODE = 'disk_full'"
    made.query(SLOW_INDEX.replace("'on';", "'never';").replace("RAISE 'not today'", full))
    made.query("CREATE TABLE larger TABLESPACE old AS SELECT generate_series(1, 9000) AS n")
    told = subprocess.run(move(made), capture_output=True, text=True, timeout=60)
    assert told.returncode == 1, told.stderr
    assert "could not extend file" in told.stdout
    assert "Nothing more was tried: make room first" in told.stdout
    assert "table public.larger: its turn did not come" in told.stdout
    assert made.query(INVALID) == []
    made.query("ALTER DATABASE postgres RESET tests.slow")
    assert moved(made)["droppable"]


def test_what_another_rebuild_has_left_is_named_with_the_statement(made):
    made.query(SLOW_INDEX)
    parameters = made.cluster.connection_parameters()
    with closing(psycopg2.connect(**parameters)) as session:
        session.autocommit = True
        cursor = session.cursor()
        cursor.execute("SET statement_timeout = '1s'")
        with pytest.raises(psycopg2.errors.QueryCanceled):
            cursor.execute("REINDEX (CONCURRENTLY, TABLESPACE new) INDEX on_same")
    made.query("ALTER DATABASE postgres RESET tests.slow")
    result = moved(made, exit_code=1)
    assert names(result["moved"]) == ["public.on_same", "public.slowly"]
    assert result["left"] == []
    (leftover,) = result["leftovers"]
    assert leftover["statement"] == "DROP INDEX CONCURRENTLY public.on_same_ccnew"
    made.query(leftover["statement"])
    assert moved(made)["droppable"]


def test_while_it_is_stopped_it_holds_no_lock_and_a_rate_is_kept(made):
    for number in range(6):
        made.query(
            f"CREATE TABLE t{number} TABLESPACE old AS SELECT repeat('x', 1000) AS x "
            "FROM generate_series(1, 700)"
        )
    left = (
        "SELECT count(*) FROM pg_class c JOIN pg_tablespace t ON t.oid = reltablespace "
        "WHERE relname ~ '^t[0-9]$' AND spcname = 'old'"
    )
    rate = ("--rate", 1.6, "--jobs", 2)
    # In a process group of its own, as a shell starts it: the kernel does not let Ctrl-Z stop a
    # group that nobody would continue, and that of the tests may be one.
    command = subprocess.Popen(
        move(made, *rate), stdout=subprocess.PIPE, text=True, preexec_fn=os.setpgrp
    )
    wait_for(lambda: made.query(left) <= [(4,)])
    os.kill(command.pid, signal.SIGTSTP)
    locks = (
        "SELECT count(*) FROM pg_locks l JOIN pg_stat_activity a USING (pid) "
        "WHERE a.application_name LIKE 'tde%'"
    )
    wait_for(lambda: psutil.Process(command.pid).status() == psutil.STATUS_STOPPED)
    # What the server was moving it has moved.
    wait_for(lambda: made.query(locks) == [(0,)])
    stopped = made.query(left)
    assert stopped > [(0,)]
    time.sleep(1.5)  # Longer than the pauses.
    assert made.query(left) == stopped
    assert made.query(locks) == [(0,)]
    os.kill(command.pid, signal.SIGCONT)
    assert command.wait(timeout=60) == 0

    back = move_tablespace(made.cluster, "new", "old", MoveOptions(rate=1.6e6))
    assert len(back.moved) == 6
    # What was copied last is not paid for.
    paid = back.bytes * 5 / 6 / 1.6e6
    assert 2 < paid < back.seconds


def test_a_dry_run_shows_locks_and_sizes_and_moves_nothing(made):
    made.query("CREATE TABLE t TABLESPACE old AS SELECT generate_series(1, 3000) AS n")
    made.query("CREATE INDEX i ON t (n) TABLESPACE old")
    before = places(made)
    result = moved(made, "--dry-run")
    assert [(one["name"], one["lock"].partition(":")[0]) for one in result["planned"]] == [
        ("public.i", "SHARE UPDATE EXCLUSIVE"),
        ("public.t", "ACCESS EXCLUSIVE"),
    ]
    assert all(one["bytes"] >= 16384 for one in result["planned"])
    environment = {**os.environ, "COLUMNS": "200"}
    told = subprocess.run(
        move(made, "--dry-run"), capture_output=True, text=True, env=environment, timeout=60
    )
    assert "reads and writes of it wait while it is copied" in told.stdout
    assert "2 objects to move" in told.stdout
    assert places(made) == before
