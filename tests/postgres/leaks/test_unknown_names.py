"""Inside a cluster nothing is written in plaintext under a name that nobody knows; outside of it
a name proves nothing."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg2
import pytest

from tde import Algorithm
from tde.postgres import PostgresBinaries, create_tablespace
from tests.conftest import RunningCluster
from tests.postgres.canaries import CANARY, files_with, settle
from tests.postgres.cluster_copies import base_backup, configure, make_directory, open_copy

TEXT = CANARY.decode()
LARGE_OBJECT = CANARY * 1000
SEGMENT_NAME = "0000000100000000000000AA"

# Where nobody expects rows: relative to the data directory, {version} of a tablespace.
INSIDE = [
    "rows.csv",
    "base/5/ext_16384.dat",
    "base/5/16384.dat",
    "base/16384_rows",
    "global/rows",
    "pg_wal/rows",
    "pg_wal/archive_status/rows",
    "pg_stat_tmp/rows",
    "pg_xact/rows",
    "pg_replslot/rows",
    "log/rows.csv",
    "columns/part.1",
    "pg_tblspc/{oid}/rows",
    "pg_tblspc/{oid}/{version}/5/rows",
]
# Names that mean something inside, and what each would be there.
OUTSIDE = {
    "relation": "base/2024/11",
    "temporary relation": "base/5/t3_16384",
    "shared relation": "global/1260",
    "segment": SEGMENT_NAME,
    "partial segment": f"{SEGMENT_NAME}.partial",
    "archived segment": f"archtemp.{SEGMENT_NAME}.7.8",
    "temporary file": "base/pgsql_tmp/pgsql_tmp7.0",
    "notification": "pg_notify/0000",
    "tablespace": "pg_tblspc/16384/PG_15_202209061/5/16384",
}


@dataclass(frozen=True)
class Place:
    """A running cluster with a tablespace, and a directory that is outside of both.

    Attributes:
        oid: of the tablespace.
        rows: OID of a large object.
    """

    cluster: RunningCluster
    oid: int
    rows: int
    location: Path
    outside: Path

    @property
    def data(self) -> Path:
        return self.cluster.data_directory

    def log(self) -> str:
        return "".join(path.read_text() for path in sorted((self.data / "log").iterdir()))


@pytest.fixture(scope="module")
def place(binaries, module_cluster_factory) -> Iterator[Place]:
    options = {"logging_collector": "on", "log_directory": "log"}
    cluster = module_cluster_factory(binaries, name=f"data{binaries.major}", options=options)
    directory = module_cluster_factory.directory
    base = directory / f"tablespace{binaries.major}"
    create_tablespace(cluster.cluster, cluster.keystore, "secret", base, Algorithm.AES128)
    cluster.query(f"CREATE TABLE t AS SELECT '{TEXT}' AS x FROM generate_series(1, 10)")
    cluster.query("CREATE TABLE u (x text) TABLESPACE secret")
    make_directory(cluster, cluster.data_directory / "columns")
    ((oid,),) = cluster.query("SELECT oid FROM pg_tablespace WHERE spcname = 'secret'")
    location = (cluster.data_directory / f"pg_tblspc/{oid}").resolve()
    outside = make_directory(cluster, directory / f"outside{binaries.major}")
    ((rows,),) = cluster.query(f"SELECT lo_from_bytea(0, decode('{LARGE_OBJECT.hex()}', 'hex'))")
    yield Place(cluster, oid, rows, location, outside)
    cluster.cluster.stop("immediate")


def spelled(place: Place, name: str) -> str:
    (version,) = [entry.name for entry in place.location.iterdir()]
    (database,) = [entry.name for entry in (place.location / version).iterdir()]
    text = name.replace("/5/rows", f"/{database}/rows")
    return text.format(oid=place.oid, version=version)


def refused(place: Place, statement: str) -> str:
    with pytest.raises(psycopg2.Error, match="Operation not supported") as failure:
        place.cluster.query(statement)
    return str(failure.value)


@pytest.mark.parametrize("name", INSIDE)
def test_rows_are_not_exported_into_the_cluster(place, name):
    file = place.data / spelled(place, name)
    before = file.exists()
    assert str(file) in refused(place, f"COPY t TO '{file}'")
    assert file.exists() is before
    said = f"refused to create {file}: PostgreSQL keeps no file of this name there"
    wait_for(lambda: said in place.log(), "line in the log")  # It comes through a pipe.
    (line,) = [line for line in place.log().splitlines() if said in line]
    assert "outside of the data directory" in line, "the log says what to do"
    relative = file.relative_to(place.data)
    refused(place, f"SELECT lo_export({place.rows}, '{relative}')")
    assert file.exists() is before


@pytest.mark.parametrize("steps", [600, 1900])
def test_a_long_path_leaves_room_for_what_to_do(place, steps):
    """A message is one line, of at most what a pipe takes undivided."""
    path = f"{place.data}/{'./' * steps}rows{steps}.csv"
    refused(place, f"COPY t TO '{path}'")

    def said() -> list[str]:
        length = range(2 * steps, 2 * steps + 1000)
        lines = (line for line in place.log().splitlines() if line.startswith("tde: "))
        return [line for line in lines if "./././" in line and len(line) in length]

    wait_for(lambda: bool(said()), "line in the log")  # It comes through a pipe.
    (line,) = said()
    assert line.endswith("outside of the data directory, the WAL directory and all tablespaces")
    assert len(line) < 4096


def test_it_does_not_matter_how_a_path_leads_into_the_cluster(place):
    link = place.outside / "link"
    link.symlink_to(place.data / "base")
    version = spelled(place, "{version}")
    # A link to a file that does not exist yet: what creates the file follows it.
    dangling, through = place.outside / "dangling", place.outside / "through"
    dangling.symlink_to(place.data / "base/5/new_rows")
    through.symlink_to("dangling")
    for path in (
        dangling,
        through,
        link / "rows",
        link / "5/16384_rows",
        place.location / "rows",
        place.location / version / "rows",
        place.outside / f"../{place.data.name}/rows",
        place.outside / f"./../{place.data.name}//base/../rows",
    ):
        refused(place, f"COPY t TO '{path}'")
        refused(place, f"SELECT lo_export({place.rows}, '{path}')")
    settle(place.cluster)
    found = files_with(CANARY, place.data, place.location)
    assert [path for path in found if "log" not in path.parts] == []


@pytest.mark.parametrize("name", OUTSIDE.values(), ids=list(OUTSIDE))
def test_an_export_to_any_name_outside_is_what_was_exported(place, name):
    file = place.outside / name
    for parent in reversed(file.relative_to(place.outside).parents[:-1]):
        if not (place.outside / parent).exists():
            make_directory(place.cluster, place.outside / parent)
    place.cluster.query(f"SELECT lo_export({place.rows}, '{file}')")
    assert file.read_bytes() == LARGE_OBJECT
    ((back,),) = place.cluster.query(f"SELECT lo_import('{file}')")
    ((same,),) = place.cluster.query(f"SELECT lo_get({back}) = lo_get({place.rows})")
    assert same
    file.unlink()
    place.cluster.query(f"COPY t TO '{file}'")
    assert file.read_bytes() == f"{TEXT}\n".encode() * 10
    file.unlink()


def has_library(binaries: PostgresBinaries, name: str) -> bool:
    """Tell whether a module of contrib is installed."""
    command = [binaries.program("pg_config"), "--pkglibdir"]
    directory = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    return (Path(directory) / f"{name}.so").exists()


def refusals(log: str) -> list[str]:
    return [line for line in log.splitlines() if "refused to" in line]


# What makes each kind of file that a server writes besides relations and WAL.
EVERY_KIND = [
    "ALTER SYSTEM SET work_mem = '8MB'",
    "SELECT pg_reload_conf()",
    "CREATE DATABASE copied STRATEGY file_copy",
    "CREATE DATABASE logged STRATEGY wal_log",
    "CREATE DATABASE elsewhere TABLESPACE secret STRATEGY file_copy",
    "VACUUM FULL pg_class",
    "VACUUM FULL pg_database",
    "CREATE PUBLICATION everything FOR ALL TABLES",
    "SELECT pg_create_logical_replication_slot('decoded', 'test_decoding')",
    "CREATE TABLE many (x text)",
    "INSERT INTO many SELECT repeat('y', 100) || g FROM generate_series(1, 5000) g",
    "SELECT pg_replication_origin_create('origin')",
    "CHECKPOINT",
    "SELECT count(*) FROM pg_logical_slot_peek_changes('decoded', NULL, NULL)",
    "SELECT pg_drop_replication_slot('decoded')",
    "NOTIFY anybody, 'something'",
    "SELECT pg_rotate_logfile()",
]


def test_a_server_writes_all_its_own_files(binaries, encrypted_cluster_factory, os_user_tmp_path):
    options = {
        "logging_collector": "on",
        "log_directory": "my_logs",
        "log_destination": "stderr,csvlog",
        "wal_level": "logical",
        "max_prepared_transactions": "5",
        "track_commit_timestamp": "on",
        "logical_decoding_work_mem": "64kB",
        "external_pid_file": "second.pid",
    }
    if binaries.major >= 17:
        options["summarize_wal"] = "on"
    libraries = [
        name for name in ("pg_prewarm", "pg_stat_statements") if has_library(binaries, name)
    ]
    options["shared_preload_libraries"] = ",".join(libraries)
    cluster = encrypted_cluster_factory(binaries, start=False)
    options["unix_socket_directories"] = str(cluster.data_directory)
    cluster = _started(cluster, options)
    location = os_user_tmp_path / "tablespace"
    create_tablespace(cluster.cluster, cluster.keystore, "secret", location, Algorithm.AES128)
    has_plugin = has_library(binaries, "test_decoding")
    plugin = "test_decoding" if has_plugin else "pgoutput"
    for statement in EVERY_KIND:
        if plugin == "pgoutput" and "peek_changes" in statement:
            statement = (
                "SELECT count(*) FROM pg_logical_slot_peek_binary_changes('decoded', NULL, NULL, "
                "'proto_version', '1', 'publication_names', 'everything')"
            )
        cluster.query(statement.replace("test_decoding", plugin))
    connection = psycopg2.connect(**cluster.cluster.connection_parameters())
    cursor = connection.cursor()
    cursor.execute("INSERT INTO many VALUES ('prepared')")
    cursor.execute("SELECT pg_export_snapshot()")
    connection.rollback()
    cursor.execute("INSERT INTO many VALUES ('prepared')")
    cursor.execute("PREPARE TRANSACTION 'first'")
    connection.close()
    cluster.query("CHECKPOINT")
    if "pg_stat_statements" in libraries:
        cluster.query("CREATE EXTENSION pg_stat_statements")
        cluster.query("SELECT pg_stat_statements_reset()")
    backup = os_user_tmp_path / "backup"
    (link,) = (cluster.data_directory / "pg_tblspc").iterdir()
    base_backup(cluster, backup, f"--tablespace-mapping={link.readlink()}={backup}-tablespace")
    cluster.cluster.stop()
    if "pg_prewarm" in libraries:
        assert (cluster.data_directory / "autoprewarm.blocks").exists()
    _started(cluster, options)
    cluster.query("COMMIT PREPARED 'first'")
    assert (cluster.data_directory / "second.pid").exists()
    logs = list((cluster.data_directory / "my_logs").iterdir())
    assert {path.suffix for path in logs} == {".log", ".csv"}
    assert refusals("".join(path.read_text() for path in logs)) == []

    standby = open_copy(encrypted_cluster_factory, cluster, backup, cluster.keystore)
    configure(standby, ["restore_command = 'false'"])
    (backup / "standby.signal").touch()
    socket = make_directory(standby, os_user_tmp_path / "socket")
    _started(standby, {**options, "unix_socket_directories": str(socket)})
    assert standby.query("SELECT pg_promote()") == [(True,)]
    standby.cluster.stop()
    logs = list((backup / "my_logs").iterdir())
    assert refusals("".join(path.read_text() for path in logs)) == []


def _started(cluster: RunningCluster, options: dict[str, str]) -> RunningCluster:
    cluster.start(options)
    return cluster


def wait_for(condition, what: str) -> None:
    for _ in range(300):
        if condition():
            return
        time.sleep(0.1)
    pytest.fail(f"no {what} within 30 seconds")


def test_basic_archive_writes_ciphertext_that_can_be_restored(
    postgres_installations, encrypted_cluster_factory, os_user_tmp_path
):
    """The archiver writes segments to where it is told, in the server's own process."""
    found = [
        binaries
        for binaries in postgres_installations.values()
        if has_library(binaries, "basic_archive")
    ]
    if not found:
        pytest.skip("no installation with basic_archive")
    cluster = encrypted_cluster_factory(found[0], start=False)
    archive = make_directory(cluster, os_user_tmp_path / "archive")
    options = {
        "archive_mode": "on",
        "archive_library": "basic_archive",
        "basic_archive.archive_directory": str(archive),
    }
    cluster.start(options)
    backup = os_user_tmp_path / "backup"
    base_backup(cluster, backup)
    cluster.query(f"CREATE TABLE t AS SELECT '{TEXT}' || g AS x FROM generate_series(1, 1000) g")
    ((last,),) = cluster.query("SELECT pg_walfile_name(pg_current_wal_lsn())")
    cluster.query("SELECT pg_switch_wal()")
    wait_for((archive / last).exists, f"{last} in the archive")
    assert list(archive.glob("*.backup")), "backup histories are archived too"
    assert files_with(CANARY, archive) == []
    ((raw,),) = cluster.query(f"SELECT pg_read_binary_file('pg_wal/{last}')")
    assert (archive / last).read_bytes() == bytes(raw)
    cluster.cluster.stop()

    restored = open_copy(encrypted_cluster_factory, cluster, backup, cluster.keystore)
    configure(restored, [f"restore_command = 'cp {archive}/%f %p'", "archive_mode = off"])
    (backup / "recovery.signal").touch()
    restored.start()
    wait_for(lambda: restored.query("SELECT pg_is_in_recovery()") == [(False,)], "end of recovery")
    assert restored.query(f"SELECT count(*) FROM t WHERE x LIKE '{TEXT}%'") == [(1000,)]
