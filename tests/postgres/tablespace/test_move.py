"""Everything that a tablespace has is moved to another one while the server runs."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable
from contextlib import closing
from types import SimpleNamespace

import psycopg2
import pytest

from tde.errors import TdeError
from tde.postgres import (
    MoveOptions,
    Scope,
    create_tablespace,
    find_plain_copies,
    move_tablespace,
    plan_move,
)
from tests.postgres.cluster_copies import base_backup, open_copy
from tests.postgres.tablespace.movables import (
    content,
    make_everything,
    make_spaces,
    places,
)
from tests.postgres.tpcb import pgbench, tpcb_sums


def test_every_kind_of_object_is_moved_and_stays_what_it_was(
    binaries_older_slow, encrypted_cluster_factory
):
    made = encrypted_cluster_factory(binaries_older_slow)
    old, new = make_spaces(made, 'Old "one"', "new")
    make_everything(made, where='"Old ""one"""')
    made.query("CREATE TABLE elsewhere AS SELECT 1 AS n")
    before = content(made)
    with closing(psycopg2.connect(**made.cluster.connection_parameters())) as session:
        session.cursor().execute('CREATE TEMP TABLE mine (n int) TABLESPACE "Old ""one"""')
        session.commit()
        planned = plan_move(made.cluster, old.name, "new")
        first = move_tablespace(made.cluster, old.name, "new")
    assert first.complete
    assert not first.droppable
    assert [(one.database, one.what) for one in first.rest.remaining] == [
        ("postgres", "1 temporary relations of sessions")
    ]
    assert {one.movable for one in first.moved} == set(planned.movables)
    rebuilt = {m.name.partition(".")[2] for m in planned.movables if m.concurrently}
    assert {"lower_of_name", "hash_of_name", "deferred_n_key", "parted_1_pkey"} <= rebuilt
    assert rebuilt.isdisjoint({"broken", "kept_out_during_excl", "parted_pkey"})
    assert content(made) == before
    # Sequences always lie where their database does.
    where = {kind: space for found in places(made).values() for kind, space in found}
    assert where.pop("S") == 1663
    assert places(made).pop("elsewhere") == {("r", 1663)}
    made.query("DROP TABLE elsewhere")
    found = [place for found in places(made).values() for place in found if place[0] != "S"]
    assert {kind for kind, _ in found} == {"r", "m", "p", "i", "I", "t"}
    assert {space for _, space in found} == {new.oid}

    made.query("CREATE TABLE parted_3 PARTITION OF parted FOR VALUES FROM (1000) TO (2000)")
    assert places(made)["parted_3"] == {("r", new.oid)}
    again = move_tablespace(made.cluster, old.name, "new")
    assert again.droppable
    assert not again.moved
    made.query(again.statement)
    made.cluster.restart(made.keystore)
    assert content(made) == before


def test_what_needs_a_database_without_connections_is_named_with_the_statement(
    binaries_older_slow, encrypted_cluster_factory
):
    made = encrypted_cluster_factory(binaries_older_slow)
    _, new, _ = make_spaces(made, "old", "new", "third")
    name = 'host=x "odd"'
    quoted = '"host=x ""odd"""'
    made.query(f"CREATE DATABASE {quoted} TABLESPACE old")
    made.query("CREATE DATABASE closed")
    made.query("CREATE TABLE t TABLESPACE old AS SELECT 1 AS n", dbname="closed")
    made.query("ALTER DATABASE closed ALLOW_CONNECTIONS false")
    make_everything(made, name)
    made.query("SELECT lo_from_bytea(4711, 'large')", dbname=name)
    before = content(made, name)

    (planned, _) = plan_move(made.cluster, "old", "new").rest.remaining[::-1]
    assert f"ALTER DATABASE {quoted} SET TABLESPACE new, which moves all" in planned.remedy
    result = move_tablespace(made.cluster, "old", "new")
    assert result.complete
    assert not result.droppable
    closed, whole = result.rest.remaining
    assert (closed.database, whole.database) == ("closed", name)
    assert "ALTER DATABASE closed ALLOW_CONNECTIONS true" in closed.remedy
    statement = f"ALTER DATABASE {quoted} SET TABLESPACE "
    assert f"{statement}NAME" in whole.remedy
    assert {s for found in places(made, name).values() for k, s in found if k != "S"} == {new.oid}

    made.query("ALTER DATABASE closed ALLOW_CONNECTIONS true")
    with pytest.raises(psycopg2.Error, match="already in tablespace"):
        made.query(f"{statement} new")
    made.query(f"{statement} third")
    last = move_tablespace(made.cluster, "old", "new")
    assert last.droppable
    assert [(one.movable.database, one.movable.name) for one in last.moved] == [
        ("closed", "public.t")
    ]
    made.query("DROP TABLESPACE old")
    assert content(made, name) == before
    assert made.query("SELECT lo_get(4711)::text", dbname=name) == [("\\x6c61726765",)]


def test_settings_that_name_it_are_given_with_what_changes_them(
    any_binaries, encrypted_cluster_factory
):
    made = encrypted_cluster_factory(any_binaries)
    make_spaces(made, 'Old "one"', "It's new")
    old = '"Old ""one"""'
    made.query("CREATE DATABASE shop")
    made.query('CREATE ROLE "Eve"')
    for statement in (
        f"ALTER SYSTEM SET temp_tablespaces = pg_default, {old}",
        f"ALTER DATABASE shop SET default_tablespace = {old}",
        f'ALTER ROLE "Eve" SET temp_tablespaces = {old}, pg_default',
        f'ALTER ROLE "Eve" IN DATABASE shop SET default_tablespace = {old}',
        "ALTER DATABASE postgres SET default_tablespace = pg_default",
        f"ALTER ROLE ALL SET default_tablespace = {old}",
        f"CREATE PROCEDURE p(n int) LANGUAGE sql SET temp_tablespaces = {old} AS 'SELECT 1'",
        "CREATE FUNCTION f() RETURNS int LANGUAGE sql SET default_tablespace = '' RETURN 1",
        "SELECT pg_reload_conf()",
    ):
        made.query(statement)
    found = move_tablespace(made.cluster, 'Old "one"', "It's new").rest.settings
    assert [(one.where.rpartition("/")[2], one.name) for one in found] == [
        ("role Eve in database shop", "default_tablespace"),
        ("database shop", "default_tablespace"),
        ("role Eve", "temp_tablespaces"),
        ("all roles", "default_tablespace"),
        ("postgresql.auto.conf:3", "temp_tablespaces"),
        ("public.p(integer) in database postgres", "temp_tablespaces"),
    ]
    for one in found:
        for statement in one.statement.split("; "):
            made.query(statement)
    deadline = time.monotonic() + 20
    while move_tablespace(made.cluster, 'Old "one"', "It's new").rest.settings:
        assert time.monotonic() < deadline
    assert made.query("SHOW default_tablespace", dbname="shop") == [("It's new",)]
    assert made.query("SHOW default_tablespace", dbname="template1") == [("It's new",)]
    assert made.query("SHOW temp_tablespaces") == [('pg_default, "It\'s new"',)]


def test_nothing_is_moved_that_should_not_be(
    any_binaries, encrypted_cluster_factory, os_user_tmp_path, monkeypatch
):
    made = encrypted_cluster_factory(any_binaries)
    make_spaces(made, "old", "new")
    made.query("CREATE TABLE t TABLESPACE old AS SELECT generate_series(1, 1000) AS n")
    made.query("CREATE ROLE plain LOGIN")

    def refused(source: str, target: str, **more: object) -> str:
        with pytest.raises(TdeError) as caught:
            move_tablespace(made.cluster, source, target, **more)
        return str(caught.value)

    assert refused("old", "old") == 'both are the tablespace "old"'
    assert refused("OLD", "new") == 'there is no tablespace "OLD"'
    assert "pg_global holds what all databases share" in refused("old", "pg_global")
    assert "pg_global holds what all databases share" in refused("pg_global", "new")
    assert "plain is no superuser" in refused("old", "new", username="plain")
    nowhere = MoveOptions(databases=["shop"])
    assert "no database named shop" in refused("old", "new", options=nowhere)
    with monkeypatch.context() as patches:
        patches.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=40_000))
        assert "0 MiB free" in refused("old", "new")
        # The WAL of this cluster is on the same file system.
        (size,) = (movable.bytes for movable in plan_move(made.cluster, "old", "new").movables)
        free = [size * 2 + (64 << 20) - 1]
        patches.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free[-1]))
        assert "WAL included" in refused("old", "new")
        # Others fill it after the beginning.
        free += [0, free[0] + 1]
        patches.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free.pop()))
        (left,) = move_tablespace(made.cluster, "old", "new").left
        assert left.verdict.value == "full"
        assert "0 MiB free" in left.reason[0]
    made.query("ALTER SYSTEM SET default_transaction_read_only = on")
    made.cluster.stop()
    (made.data_directory / "standby.signal").touch()
    made.start()
    assert "is a standby" in refused("old", "new")
    assert made.query(
        "SELECT count(*) FROM pg_tablespace t WHERE spcname = 'old' AND oid = ("
        "SELECT reltablespace FROM pg_class WHERE relname = 't')"
    ) == [(1,)]


def test_rows_leave_an_encrypted_tablespace_only_when_that_is_wanted(
    binaries_older_slow, encrypted_cluster_factory, os_user_tmp_path, tde_command
):
    """Scope tablespaces: what lies in plaintext gets a key, and the audit has nothing to name."""
    made = encrypted_cluster_factory(
        binaries_older_slow, scope=Scope.TABLESPACES, options={"autovacuum": "off"}
    )
    make_spaces(made, "secret")
    create_tablespace(made.cluster, made.keystore, "open", os_user_tmp_path / "open", None)
    made.query("CREATE TABLE people TABLESPACE secret AS SELECT generate_series(1, 500) AS n")
    made.query("CREATE INDEX by_n ON people (n)")
    made.query("CREATE TABLE later TABLESPACE open AS SELECT 'a canary' AS x")
    made.query("CREATE INDEX ON later (x) TABLESPACE open")
    status = ("pg", "status", "-D", made.data_directory)
    move = ("tablespace", "move", "-D", made.data_directory)
    assert "index public.by_n copies rows" in " ".join(tde_command(*status).stdout.split())
    # The database itself lies in pg_default, which is no tablespace to drop.
    moved = tde_command(*move, "--from", "pg_default", "--to", "secret").stdout
    assert "Moved 1 objects" in moved
    assert "ALTER DATABASE postgres SET TABLESPACE NAME" in moved
    assert "is empty" not in moved
    assert find_plain_copies(made.cluster).copies == ()
    assert "none of rows in encrypted" in " ".join(tde_command(*status).stdout.split())

    moved = tde_command(*move, "--from", "open", "--to", "secret").stdout
    assert "Moved 2 objects" in moved
    assert "open is empty: DROP TABLESPACE open is possible" in moved
    assert "may stay on the medium" in moved
    made.query("CHECKPOINT")
    files = [file for file in (os_user_tmp_path / "spaces").rglob("*") if file.is_file()]
    assert files
    assert not [file for file in files if b"a canary" in file.read_bytes()]

    refused = tde_command(*move, "--from", "secret", "--to", "open", exit_code=1)
    assert '"secret" is encrypted and "open" is not' in refused.stderr
    assert {space for _, space in places(made)["people"]} != {0}
    tde_command(*move, "--from", "secret", "--to", "open", "--to-plaintext")
    made.query("CHECKPOINT")
    assert [
        f
        for f in (os_user_tmp_path / "open").rglob("[0-9]*")
        if f.is_file() and b"a canary" in f.read_bytes()
    ]
    assert made.query("SELECT count(*) FROM people WHERE n > 0") == [(500,)]


def test_clients_go_on_writing_and_a_standby_follows(
    binaries_older_slow, encrypted_cluster_factory, os_user_tmp_path
):
    made = encrypted_cluster_factory(
        binaries_older_slow, options={"allow_in_place_tablespaces": "on"}
    )
    for name in ("old", "new"):
        # In the data directory, so that the standby of this machine has its own.
        made.query(f"CREATE TABLESPACE {name} LOCATION ''")
    make_everything(made, where="old")
    before = content(made)
    pgbench(made, "-i", "-s", "2", "-q", "--tablespace=old", "--index-tablespace=old")
    directory = os_user_tmp_path / "standby"
    base_backup(made, directory, "--write-recovery-conf", "--wal-method=stream")
    standby = open_copy(encrypted_cluster_factory, made, directory, made.keystore)
    standby.start({"allow_in_place_tablespaces": "on"})

    load = threading.Thread(target=pgbench, args=(made, "-c", "4", "-T", "6", "--max-tries=1"))
    failures: list[object] = []
    hook = threading.excepthook
    threading.excepthook = failures.append
    try:
        load.start()
        wait_for(lambda: made.query("SELECT count(*) > 20 FROM pgbench_history") == [(True,)])
        result = move_tablespace(made.cluster, "old", "new", MoveOptions(jobs=2))
        assert load.is_alive(), "the load must outlast the move"
        load.join()
    finally:
        threading.excepthook = hook
    assert failures == []
    assert result.complete
    assert result.droppable
    assert {m.movable.name for m in result.moved} >= {
        "public.pgbench_accounts",
        "public.pgbench_accounts_pkey",
    }
    made.query(result.statement)
    assert len(tpcb_sums(made)) == 1

    position = made.query("SELECT pg_current_wal_flush_lsn()")[0][0]
    wait_for(
        lambda: (
            standby.query(f"SELECT coalesce(pg_last_wal_replay_lsn() >= '{position}', false)")
            == [(True,)]
        )
    )
    assert tpcb_sums(standby) == tpcb_sums(made)
    assert places(standby) == places(made)
    assert content(made) == before
    # What is unlogged is empty on a standby, and cannot be read there.
    made.cluster.stop()
    standby.query("SELECT pg_promote()")
    assert [row for row in content(standby) if row not in before] == [(None,), (0,)]


def test_a_cluster_without_encryption_is_served_too(any_binaries, encrypted_cluster_factory):
    made = encrypted_cluster_factory.plain(
        any_binaries, options={"allow_in_place_tablespaces": "on"}
    )
    for name in ("old", "new"):
        made.query(f"CREATE TABLESPACE {name} LOCATION ''")
    made.query("CREATE TABLE t TABLESPACE old AS SELECT generate_series(1, 300) AS n")
    result = move_tablespace(made.cluster, "old", "new")
    assert result.droppable
    assert result.key_file is None
    assert made.query("SELECT count(*) FROM t") == [(300,)]


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)
