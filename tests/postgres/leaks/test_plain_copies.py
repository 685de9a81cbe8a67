"""Rows of encrypted tables that PostgreSQL itself copies into plain tablespaces are named.

Scope ``tablespaces``: each copy is made as a DBA makes it, without a word about tablespaces, is
named by status, doctor and audit, and is gone after the remedy that is given.
"""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from tde import Algorithm
from tde.cli.app import app
from tde.doctor import Group, Verdict
from tde.postgres import (
    Scope,
    audit,
    create_tablespace,
    doctor,
    find_plain_copies,
)
from tests.keystore.cheap_passphrase import PASSPHRASE
from tests.postgres.cluster_copies import make_directory

SECRET = "Jane Doe, born 1970-01-01"
PROVEN = "Everything that should be ciphertext is."


@pytest.fixture
def made(encrypted_cluster_factory, binaries):
    """A running cluster in which only one tablespace is encrypted."""
    cluster = encrypted_cluster_factory(binaries, scope=Scope.TABLESPACES)
    directory = make_directory(cluster, cluster.data_directory.parent / "spaces")
    for name in ("secret", "other"):
        create_tablespace(
            cluster.cluster, cluster.keystore, name, directory / name, Algorithm.AES256
        )
    return cluster


@pytest.fixture
def tde(made, tmp_path, monkeypatch):
    """Runs a command of ``tde pg`` on the cluster and returns what it prints."""
    passphrase = tmp_path / "passphrase"
    passphrase.write_bytes(PASSPHRASE)
    passphrase.chmod(0o600)
    monkeypatch.setenv("COLUMNS", "200")
    where = ["-D", str(made.data_directory), "--bindir", str(made.cluster.binaries.bindir)]

    def run(command: str, *arguments: str, exit_code: int) -> str:
        if command == "audit":
            arguments += ("--passphrase-file", str(passphrase))
        result = CliRunner().invoke(app, ["pg", command, *where, *arguments])
        assert result.exit_code == exit_code, result.output
        return result.stdout

    return run


def make_rows(made, dbname="postgres", where="TABLESPACE secret") -> None:
    made.query("CREATE SCHEMA app", dbname=dbname)
    made.query(
        f"CREATE TABLE app.people {where} AS "
        f"SELECT CASE WHEN i % 3 = 0 THEN '{SECRET}' ELSE 'number ' || i END AS \"Full name\", "
        "i % 5 AS kind FROM generate_series(1, 600) i",
        dbname=dbname,
    )


def found(made, dbname="postgres") -> list[tuple[str, str]]:
    looked = find_plain_copies(made.cluster)
    assert looked.possible
    assert looked.all_seen
    assert {copy.database for copy in looked.copies} <= {dbname}
    return [(copy.kind.value, copy.name) for copy in looked.copies]


def apply_remedies(made) -> None:
    for copy in find_plain_copies(made.cluster).copies:
        assert copy.statements, copy
        for statement in copy.statements:
            assert statement in copy.remedy
            made.query(statement, dbname=copy.database)
    made.query("CHECKPOINT")


def leaked(made) -> list[str]:
    """Return the relation files in plain tablespaces that hold the secret."""
    made.query("CHECKPOINT")
    report = audit(made.cluster, made.keystore, canary=SECRET)
    return [str(finding.file) for finding in report.findings if finding.kind.value == "canary"]


def test_an_index_and_statistics_are_named_until_their_remedies_were_applied(made, tde):
    make_rows(made)
    made.query("CHECKPOINT")
    assert found(made) == []
    assert leaked(made) == []
    assert PROVEN in tde("audit", exit_code=0)
    assert "none of rows in encrypted tablespaces" in tde("status", exit_code=0)

    made.query('CREATE INDEX by_name ON app.people ("Full name")')
    made.query('CREATE INDEX lower_name ON app.people (lower("Full name")) TABLESPACE secret')
    made.query('CREATE STATISTICS app.pair (mcv) ON "Full name", kind FROM app.people')
    made.query("ANALYZE app.people")
    assert sorted(found(made)) == [
        ("extended statistics", "app.pair"),
        ("index", "app.by_name"),
        ("statistics", "app.lower_name"),
        ("statistics", "app.people"),
    ]
    assert len(leaked(made)) >= 2  # The index and pg_statistic at least.

    text = " ".join(tde("status", exit_code=0).split())  # Without the breaks of a narrow terminal.
    assert "index app.by_name copies rows of app.people in plaintext in tablespace pg_def" in text
    listed = json.loads(tde("status", "--json", exit_code=0))["plain_copies"]
    assert len(listed["copies"]) == 4
    assert listed["copies"][1]["statements"] == ["ALTER INDEX app.by_name SET TABLESPACE secret"]
    for output in (tde("audit", exit_code=1), tde("audit", "--json", exit_code=1)):
        assert PROVEN not in output
        assert "app.by_name" in output
        assert "pg_catalog.pg_statistic holds values of app.people" in output
    report = doctor(made.data_directory, made.cluster.binaries, groups=(Group.CLUSTER,))
    problems = report.named("plain_copies")
    assert {problem.verdict for problem in problems} == {Verdict.PROBLEM}
    assert len(problems) == 4
    assert "ALTER INDEX app.by_name SET TABLESPACE secret;" in problems[1].remedy

    apply_remedies(made)
    made.query("ANALYZE app.people")
    assert found(made) == []
    assert leaked(made) == []
    assert PROVEN in tde("audit", exit_code=0)


def test_views_partitions_and_their_statistics_are_named(made):
    make_rows(made)
    made.query("CREATE VIEW app.between AS SELECT * FROM app.people")
    made.query("CREATE MATERIALIZED VIEW app.copy AS SELECT * FROM app.between")
    made.query("CREATE MATERIALIZED VIEW app.fine TABLESPACE secret AS SELECT * FROM app.people")
    for parent, where in (("inside", "TABLESPACE secret"), ("moved", "")):
        made.query(f"CREATE TABLE app.{parent} (k int, x text) PARTITION BY LIST (k) {where}")
        for key in (1, 2):
            made.query(
                f"CREATE TABLE app.{parent}_{key} PARTITION OF app.{parent} FOR VALUES IN ({key})"
            )
        made.query(
            f"INSERT INTO app.{parent} SELECT 1 + i % 2, '{SECRET}' FROM generate_series(1, 500) i"
        )
    made.query("ALTER TABLE app.inside_2 SET TABLESPACE pg_default")
    made.query("ALTER TABLE app.moved_1 SET TABLESPACE secret")
    made.query("CREATE TABLE app.unrelated AS SELECT 1 AS x")
    assert found(made) == [
        ("materialized view", "app.copy"),
        ("partition", "app.inside_2"),
        ("partition", "app.moved_2"),
    ]
    made.query("ANALYZE app.moved")
    assert ("statistics", "app.moved") in found(made)
    assert ("statistics", "app.moved_1") in found(made)
    assert ("statistics", "app.moved_2") not in found(made)  # It is named as a partition.
    apply_remedies(made)
    apply_remedies(made)  # What is a copy only now: the statistics of those that were moved.
    assert found(made) == []


def test_every_database_is_looked_into_and_one_that_cannot_be_is_said(made, tde):
    name = 'host=x "odd"'
    made.query('CREATE DATABASE "host=x ""odd"""')
    make_rows(made, dbname=name)
    made.query("CREATE INDEX i ON app.people (kind)", dbname=name)
    assert found(made, name) == [("index", "app.i")]
    made.query('ALTER DATABASE "host=x ""odd""" ALLOW_CONNECTIONS false')
    looked = find_plain_copies(made.cluster)
    assert not looked.copies
    assert looked.unread == {name: "it allows no connections"}
    text = tde("audit", exit_code=0)
    assert PROVEN not in text
    assert f"Not looked for in database {name}" in text
    (verdict,) = doctor(made.data_directory, made.cluster.binaries, groups=(Group.CLUSTER,)).named(
        "plain_copies"
    )
    assert verdict.verdict is Verdict.UNKNOWN


def test_a_stopped_server_is_not_passed_over_in_silence(made, tde):
    make_rows(made)
    made.query("CREATE INDEX i ON app.people (kind)")
    made.cluster.stop()
    text = tde("audit", exit_code=0)
    assert PROVEN not in text
    assert "Every file of the encrypted tablespaces is ciphertext." in text
    assert "Not looked for: plaintext copies" in text
    assert "Not looked for: plaintext copies" in tde("status", exit_code=3)
    (verdict,) = doctor(made.data_directory, made.cluster.binaries, groups=(Group.CLUSTER,)).named(
        "plain_copies"
    )
    assert verdict.verdict is Verdict.UNKNOWN


def test_a_database_in_an_encrypted_tablespace_leaks_nothing(made):
    """The remedy for everything at once: catalogs and new objects lie where the database does."""
    made.query("CREATE DATABASE app")
    make_rows(made, dbname="app")
    made.query('CREATE INDEX ON app.people ("Full name")', dbname="app")
    made.query("ALTER TABLE app.people ADD picture oid", dbname="app")
    made.query("SELECT lo_create(0)", dbname="app")
    made.query("ANALYZE", dbname="app")
    kinds = {kind for kind, _ in found(made, "app")}
    assert kinds == {"index", "large objects", "statistics"}
    made.query("ALTER DATABASE app SET TABLESPACE other")
    assert found(made) == []
    made.query('CREATE INDEX ON app.people (kind, "Full name")', dbname="app")
    made.query("ANALYZE", dbname="app")
    assert found(made) == []
    assert leaked(made) == []


def test_what_follows_its_table_and_what_is_decided_is_no_finding(made):
    """TOAST tables follow their table; sequences and CREATE TABLE AS leave no trace of rows."""
    make_rows(made)
    made.query("CREATE UNLOGGED TABLE app.u (id serial, x text) TABLESPACE secret")
    made.query(
        "INSERT INTO app.u (x) SELECT repeat(md5(i::text), 1000) FROM generate_series(1, 20) i"
    )
    made.query("CREATE TABLE app.copied AS SELECT * FROM app.people")
    toast = (
        "SELECT count(*) FROM pg_class t JOIN pg_class r ON r.reltoastrelid = t.oid "
        "JOIN pg_index i ON i.indrelid = t.oid JOIN pg_class x ON x.oid = i.indexrelid "
        "WHERE r.relname IN ('u', 'people') "
        "AND t.reltablespace = r.reltablespace AND x.reltablespace = r.reltablespace"
    )
    assert made.query(toast) == [(2,)]
    assert found(made) == []
    made.query("ALTER TABLE app.copied SET TABLESPACE secret")
    assert made.query(toast.replace("'u', 'people'", "'copied'")) == [(1,)]


def test_in_scope_cluster_the_server_is_not_asked(encrypted_cluster_factory, any_binaries):
    made = encrypted_cluster_factory(any_binaries, options={"log_connections": "on"})
    log = made.cluster.default_log
    before = log.read_text().count("connection authorized")
    assert find_plain_copies(made.cluster) == find_plain_copies(made.cluster)
    assert not find_plain_copies(made.cluster).possible
    assert log.read_text().count("connection authorized") == before


def test_names_in_the_database_do_not_change_what_is_asked(made):
    """An owner of a database must not run code, or hide something, by names of his own."""
    make_rows(made)
    made.query("CREATE INDEX i ON app.people (kind)")
    made.query(
        "CREATE FUNCTION public.nullif_trap(oid, oid[]) RETURNS bool LANGUAGE plpgsql AS "
        "$$BEGIN RAISE 'trapped'; END$$"
    )
    made.query(
        "CREATE OPERATOR public.= (LEFTARG = oid, RIGHTARG = oid[], FUNCTION = public.nullif_trap)"
    )
    made.query("CREATE TABLE public.pg_class (oid oid)")
    made.query("ALTER DATABASE postgres SET search_path = public, pg_catalog")
    assert found(made) == [("index", "app.i")]


def test_long_lists_are_shortened_for_people_and_whole_for_programs(made, tde):
    make_rows(made)
    for number in range(60):
        made.query(f"CREATE INDEX i{number} ON app.people (kind)")
    assert "… and 55 more; see --json" in tde("status", exit_code=0)
    assert "… and 10 more; see --json" in tde("audit", exit_code=1)
    shown = tde("doctor", exit_code=1)
    assert "… and 50 more; see --json" in shown
    for command in ("status", "audit"):
        code = 0 if command == "status" else 1
        document = json.loads(tde(command, "--json", exit_code=code))
        assert len(document["plain_copies"]["copies"]) == 60
    listed = json.loads(tde("doctor", "--json", exit_code=1))["findings"]
    assert sum(finding["check"] == "plain_copies" for finding in listed) == 60
