"""A connection that has sent a base backup reads for itself again: it decrypts."""

from __future__ import annotations

import contextlib
import io

import psycopg2

from tests.postgres.canaries import CANARY

TEXT = CANARY.decode()
CHANGES = (
    "SELECT count(*) FROM pg_logical_slot_peek_binary_changes('s', NULL, NULL,"
    " 'proto_version', '1', 'publication_names', 'p')"
)


class ReplicationConnection:
    """One connection for replication commands and SQL."""

    def __init__(self, cluster) -> None:
        parameters = cluster.cluster.connection_parameters()
        self._connection = psycopg2.connect(**parameters, replication="database")
        self._connection.autocommit = True
        self._cursor = self._connection.cursor()

    def query(self, statement: str) -> list[tuple[object, ...]]:
        self._cursor.execute(statement)
        return self._cursor.fetchall() if self._cursor.description else []

    def base_backup(self, options: str) -> bytes:
        received = io.BytesIO()
        self._cursor.copy_expert(f"BASE_BACKUP ({options}, CHECKPOINT 'fast')", received)
        return received.getvalue()

    def close(self) -> None:
        self._connection.close()


def test_reads_after_a_base_backup_are_decrypted(binaries, encrypted_cluster_factory):
    """Spill files, WAL for decoding and for COMMIT PREPARED, and relations copied by file."""
    cluster = encrypted_cluster_factory(
        binaries,
        options={
            "wal_level": "logical",
            "logical_decoding_work_mem": "64kB",
            "max_prepared_transactions": "5",
        },
    )
    cluster.query("CREATE TABLE t (id int, x text)")
    cluster.query("CREATE PUBLICATION p FOR TABLE t")
    cluster.query("SELECT pg_create_logical_replication_slot('s', 'pgoutput')")
    cluster.query(f"INSERT INTO t SELECT g, repeat('{TEXT}', 10) FROM generate_series(1, 9000) g")
    ((changes,),) = cluster.query(CHANGES)
    ((spilled,),) = cluster.query("SELECT spill_bytes > 0 FROM pg_stat_replication_slots")
    assert changes > 9000
    assert spilled
    cluster.query("CREATE DATABASE template_of_copy")
    cluster.query("CREATE TABLE copied AS SELECT 42 AS x", dbname="template_of_copy")
    with contextlib.closing(ReplicationConnection(cluster)) as connection:
        assert connection.query(CHANGES) == [(changes,)]
        assert CANARY not in connection.base_backup("TARGET 'blackhole'")
        assert connection.query(CHANGES) == [(changes,)]
        for statement in (
            "BEGIN",
            "INSERT INTO t VALUES (0, 'prepared')",
            "PREPARE TRANSACTION 'later'",
            "COMMIT PREPARED 'later'",
            "CREATE_REPLICATION_SLOT after LOGICAL pgoutput (SNAPSHOT 'nothing')",
            "CREATE DATABASE copy TEMPLATE template_of_copy STRATEGY file_copy",
        ):
            connection.query(statement)
        # A second backup on the same connection is raw, and what follows it is decrypted again.
        sent = connection.base_backup("WAL")
        assert len(sent) > 20_000_000
        assert CANARY not in sent
        # BEGIN, the row and COMMIT of the prepared transaction have come to it.
        assert connection.query(CHANGES) == [(changes + 3,)]
    assert cluster.query("SELECT x FROM copied", dbname="copy") == [(42,)]
    assert cluster.query("SELECT x FROM t WHERE id = 0") == [("prepared",)]
