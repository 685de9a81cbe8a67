"""Extensions of others on an encrypted cluster: what they store survives, and is ciphertext."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest

from tde.postgres import audit, run_program
from tde.postgres.server.os_user import run_as
from tests.conftest import RunningCluster
from tests.postgres.canaries import CANARY
from tests.postgres.crashes.file_rewrites import kill_server
from tests.tools.extensions import EXTENSIONS, ROWS, Extension
from tests.tools.site import wait_for

# In two parts, so that a log of statements does not hold it.
KEPT = f"""
CREATE TABLE kept AS SELECT n, '{CANARY[:9].decode()}' || '{CANARY[9:].decode()}' || n AS t
FROM generate_series(1, {ROWS}) AS n
"""


def options_for(extensions: list[Extension]) -> dict[str, str]:
    """Return the settings of a server with all of these; TimescaleDB wants to be the first."""
    libraries = [extension.preload for extension in extensions if extension.preload]
    libraries.sort(key=lambda library: library != "timescaledb")
    settings = dict(setting for extension in extensions for setting in extension.settings)
    return {
        "shared_preload_libraries": ",".join(libraries),
        "wal_level": "logical",
        "max_worker_processes": "40",
        # Without sequential scans plans look so costly that each of them would be compiled.
        "jit": "off",
        **settings,
    }


def fill(made: RunningCluster, extension: Extension, connection: Mapping[str, object]) -> None:
    """Make the database of an extension, and have it store something."""
    made.query(f'CREATE DATABASE "{extension.name}"')
    made.query(f'ALTER DATABASE "{extension.name}" SET enable_seqscan = off')
    if extension.creates:
        create = f'CREATE EXTENSION IF NOT EXISTS "{extension.name}" CASCADE'
        made.query(create, dbname=extension.name)
    made.query(KEPT, dbname=extension.name)
    for statement in extension.make:
        made.query(
            statement.format(**{**connection, "dbname": extension.name}), dbname=extension.name
        )


@pytest.mark.timeout(600)
def test_what_extensions_store_survives_and_is_ciphertext(
    encrypted_cluster_factory, binaries, record_property
):
    extensions = [extension for extension in EXTENSIONS if extension.is_installed(binaries)]
    if not extensions:
        pytest.skip("no extension is installed")
    made = encrypted_cluster_factory(binaries, start=False)
    made.start(options_for(extensions))
    connection = made.cluster.connection_parameters()
    allow_output_plugins(made)
    for extension in extensions:
        fill(made, extension, connection)
        if extension.name in PROGRAMS:
            PROGRAMS[extension.name](made)
    before = {e.name: made.query(e.ask, dbname=e.name) for e in extensions}
    assert all(rows != [] for rows in before.values()), before
    kill_server(made.cluster.pid)
    made.start(options_for(extensions))
    after = {e.name: made.query(e.ask, dbname=e.name) for e in extensions}
    assert after == before
    assert audit(made.cluster, made.keystore, canary=CANARY.decode()).findings == ()
    made.cluster.stop()
    assert audit(made.cluster, made.keystore, canary=CANARY.decode()).findings == ()
    checked = run_program(
        binaries,
        "pg_checksums",
        ["--check", "-D", str(made.data_directory)],
        keystore=made.keystore,
        os_user=made.cluster.os_user,
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr
    record_property("extensions", " ".join(extension.name for extension in extensions))


def repack(made: RunningCluster) -> None:
    """Run pg_repack, a program that makes a table anew beside the old one."""
    program = made.cluster.binaries.bindir / "pg_repack"
    connection = made.cluster.connection_parameters()
    run = run_as(
        made.cluster.os_user,
        [
            program, "-h", connection["host"], "-p", connection["port"], "-U", connection["user"],
            "--no-superuser-check", "-t", "kept", "pg_repack",
        ],
    )  # fmt: skip
    assert run.returncode == 0, run.stdout + run.stderr


def allow_output_plugins(made: RunningCluster) -> None:
    """Allow plugins to roles that replicate, where a server asks for that."""
    setting = "output_plugin_libraries"
    if made.query("SELECT 1 FROM pg_settings WHERE name = %s", (setting,)):
        made.query(f"ALTER SYSTEM SET {setting} = wal2json, pglogical_output, pg_squeeze")
        made.query("SELECT pg_reload_conf()")


def decode(made: RunningCluster) -> None:
    """Read rows from WAL through an output plugin."""
    made.query("SELECT pg_create_logical_replication_slot('w', 'wal2json')", dbname="wal2json")
    made.query("INSERT INTO kept SELECT n, t FROM kept", dbname="wal2json")
    read = "SELECT string_agg(data, '') FROM pg_logical_slot_get_changes('w', NULL, NULL)"
    ((changes,),) = made.query(read, dbname="wal2json")
    assert changes.count(CANARY.decode()) >= ROWS


def subscribe(made: RunningCluster) -> None:
    """Replicate a table into a second database.

    When a node is made, pglogical's supervisor starts a process in each database. What is told to
    it before it is through gets lost, and it looks again after three minutes.
    """
    through = (
        "SELECT count(*) FILTER (WHERE datname = 'pglogical' AND backend_type ~ 'manager'), "
        "count(*) FILTER (WHERE xact_start IS NOT NULL AND backend_type ~ 'supervisor') "
        "FROM pg_stat_activity WHERE backend_type ~ '^pglogical '"
    )
    wait_for("pglogical's supervisor", lambda: made.query(through) == [(1, 0)])
    made.query("CREATE DATABASE subscriber")
    made.query("CREATE EXTENSION pglogical", dbname="subscriber")
    made.query("CREATE TABLE kept (n int PRIMARY KEY, t text)", dbname="subscriber")
    connection = made.cluster.connection_parameters()
    where = f"host={connection['host']} port={connection['port']} user={connection['user']} dbname="
    made.query(f"SELECT pglogical.create_node('there', '{where}subscriber')", dbname="subscriber")
    subscription = f"SELECT pglogical.create_subscription('s', '{where}pglogical')"
    made.query(subscription, dbname="subscriber")
    wait_for(
        "the rows of the other database",
        lambda: made.query("SELECT count(*) FROM kept", dbname="subscriber") == [(ROWS,)],
    )


PROGRAMS: Mapping[str, Callable[[RunningCluster], None]] = {
    "pg_repack": repack,
    "wal2json": decode,
    "pglogical": subscribe,
}
