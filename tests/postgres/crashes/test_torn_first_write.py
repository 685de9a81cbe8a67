"""The power goes while a block of zeros gets its first content, and no WAL record can repair it.

PostgreSQL initializes a page before it inserts into it. When the insertion fails, the header stays
in the buffer and is written without ever having been in the WAL. Stock PostgreSQL changes one
sector then, so a torn write cannot hurt. Encrypted, all 16 sectors change.
"""

from __future__ import annotations

import psycopg2
import pytest

BLOCK, SECTOR = 8192, 512


LOST = {
    "header": range(1),
    "all_but_header": range(1, 16),
    "first_half": range(8),
    "second_half": range(8, 16),
    "every_other": range(0, 16, 2),
}


def leave_an_unlogged_header(cluster, table: str) -> None:
    """Make a table whose first page has a header that no WAL record knows."""
    cluster.query(f"CREATE TABLE {table} (n int)")
    parameters = cluster.cluster.connection_parameters()
    connections = [psycopg2.connect(**parameters) for _ in range(3)]
    try:
        reader, pivot, first = (connection.cursor() for connection in connections)
        for cursor in (reader, pivot, first):
            cursor.connection.set_session(isolation_level="SERIALIZABLE")
        reader.execute(f"SELECT count(*) FROM {table}")
        pivot.execute("SELECT count(*) FROM conflicts")
        first.execute("INSERT INTO conflicts VALUES (1)")
        first.connection.commit()
        # It initializes the table's first page, and only then finds that it must fail.
        with pytest.raises(psycopg2.errors.SerializationFailure):
            pivot.execute(f"INSERT INTO {table} VALUES (1)")
    finally:
        for connection in connections:
            connection.close()


@pytest.mark.parametrize("encrypted", [True, False], ids=["tde", "stock"])
def test_a_torn_header_that_was_never_logged_leaves_an_empty_page(
    binaries, encrypted_cluster_factory, encrypted
):
    make = encrypted_cluster_factory if encrypted else encrypted_cluster_factory.plain
    cluster = make(binaries, options={"autovacuum": "off"})
    cluster.query("CREATE TABLE conflicts (n int)")
    for table in LOST:
        leave_an_unlogged_header(cluster, table)
    cluster.query("CHECKPOINT")
    paths = {
        table: cluster.data_directory
        / cluster.query(f"SELECT pg_relation_filepath('{table}')")[0][0]
        for table in LOST
    }
    cluster.cluster.stop("immediate")
    for table, lost in LOST.items():
        torn = bytearray(paths[table].read_bytes())
        assert len(torn) == BLOCK
        assert any(torn)
        for sector in lost:
            torn[sector * SECTOR : (sector + 1) * SECTOR] = bytes(SECTOR)
        paths[table].write_bytes(torn)

    cluster.start({"autovacuum": "off"})
    for table in LOST:
        assert cluster.query(f"SELECT count(*) FROM {table}") == [(0,)], table
        cluster.query(f"INSERT INTO {table} SELECT generate_series(1, 1000)")
    cluster.cluster.stop()
    cluster.start()
    for table in LOST:
        assert cluster.query(f"SELECT count(*), sum(n) FROM {table}") == [(1000, 500500)], table
