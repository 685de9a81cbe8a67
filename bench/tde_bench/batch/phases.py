"""The phases of the batch, in their order; each one works on what the earlier ones left.

A phase is prepared without being measured, so that it finds the same state in every round: hint
bits are set, buffers are written. What it returns is compared between the configurations: a
server that decrypts wrongly must not win a benchmark.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass

from tde_bench.batch.target import Answer, Measurement, Target
from tde_bench.errors import BenchError

# A table of about 16 MB for each unit of scale; rows of some 150 bytes.
ROWS_PER_SCALE = 100_000

_BACKUP = "backup"

# The notes are in no order, so sorting by them is work; the customers repeat, so that joins and
# aggregates have groups.
_GENERATE = """
    SELECT g AS id, (g::bigint * 7919) % 65521 AS customer,
           (g::bigint * 104729) % 1000003 AS amount,
           timestamp '2020-01-01' + g * interval '37 seconds' AS created,
           md5(g::text) || md5((g + 1)::text) || md5((g + 2)::text) AS note
    FROM generate_series(1, {rows}) AS g
"""
_AGGREGATE = (
    "SELECT count(*), sum(id), sum(customer), sum(amount), max(created), max(note) FROM {table}"
)
_JOIN = (
    "SELECT count(*), sum(l.amount), sum(r.customer), max(l.note), max(r.note) "
    "FROM batch_rows l JOIN batch_copy r ON l.id = r.id"
)


@dataclass(frozen=True)
class Phase:
    """One phase.

    Attributes:
        name: what raw results call it.
        label: what people read.
        measure: does and measures the work.
        prepare: brings the server to the state that the work starts from.
        clean_up: removes what the work left outside the server.
    """

    name: str
    label: str
    measure: Callable[[Target], Measurement]
    prepare: Callable[[Target], None]
    clean_up: Callable[[Target], None]


def phases() -> tuple[Phase, ...]:
    """Return all phases."""
    return (
        _phase("copy", "COPY load", _copy, _new_table),
        _phase("index", "CREATE INDEX", _create_index, _vacuum),
        _phase("cold_scan", "Sequential scan, cold", _scan, _drop_from_cache),
        _phase("warm_scan", "Sequential scan, warm", _scan, _scan_before),
        _phase("ctas", "CREATE TABLE AS", _create_table_as, _checkpoint),
        _phase("update", "UPDATE of every row", _update, _index_in_order),
        _phase("alter", "ALTER TABLE rewrite", _alter, _checkpoint),
        _phase("vacuum_full", "VACUUM FULL", _vacuum_full, _checkpoint),
        _phase("sort", "External sort", _sort, _count_rows),
        _phase("join", "Parallel hash join", _join, _checkpoint),
        _phase("dump", "pg_dump", _dump, _checkpoint),
        _phase("basebackup", "pg_basebackup", _base_backup, _checkpoint, _remove_backup),
        Phase("recovery", "Crash recovery", Target.measure_recovery, _crash, _compare_after_crash),
    )


def _phase(
    name: str,
    label: str,
    work: Callable[[Target], Answer],
    prepare: Callable[[Target], None],
    clean_up: Callable[[Target], None] | None = None,
) -> Phase:
    """Return a phase whose work is measured as any work."""

    def measure(target: Target) -> Measurement:
        return target.measure(lambda: work(target))

    return Phase(name, label, measure, prepare, clean_up or Target.reset)


def write_data(target: Target, scale: int) -> None:
    """Let a server write the file that every server then loads."""
    query = _GENERATE.format(rows=scale * ROWS_PER_SCALE)
    target.execute(f"COPY ({query}) TO '{target.data_file}'")


def _checkpoint(target: Target) -> None:
    target.checkpoint()


def _vacuum(target: Target) -> None:
    """Set hint bits and statistics, which otherwise the first reader would have to do."""
    target.execute("VACUUM ANALYZE")
    target.checkpoint()


def _new_table(target: Target) -> None:
    target.execute("DROP TABLE IF EXISTS batch_rows, batch_copy")
    target.execute(
        "CREATE TABLE batch_rows "
        "(id integer, customer integer, amount integer, created timestamp, note text)"
    )
    target.checkpoint()


def _copy(target: Target) -> Answer:
    target.execute(f"COPY batch_rows FROM '{target.data_file}'")
    return ()


def _create_index(target: Target) -> Answer:
    target.execute("CREATE INDEX batch_rows_customer ON batch_rows (customer, id)")
    return ()


def _drop_from_cache(target: Target) -> None:
    target.settings(max_parallel_workers_per_gather=0)
    target.drop_from_page_cache("batch_rows")


def _scan_before(target: Target) -> None:
    target.settings(max_parallel_workers_per_gather=0)
    _scan(target)


def _scan(target: Target) -> Answer:
    return target.fetch(_AGGREGATE.format(table="batch_rows"))


def _create_table_as(target: Target) -> Answer:
    target.execute("CREATE TABLE batch_copy AS SELECT * FROM batch_rows")
    return ()


def _index_in_order(target: Target) -> None:
    """Replace the index by one whose order is that of the rows.

    With the other one, each updated row would need a page from anywhere in the index, and the
    phase would measure random access, which is the subject of OLTP.
    """
    target.execute("DROP INDEX batch_rows_customer")
    target.execute("CREATE INDEX batch_rows_id ON batch_rows (id)")
    target.checkpoint()


def _update(target: Target) -> Answer:
    target.execute("UPDATE batch_rows SET amount = amount + 1")
    return ()


def _alter(target: Target) -> Answer:
    target.execute("ALTER TABLE batch_rows ALTER COLUMN amount TYPE bigint")
    return ()


def _vacuum_full(target: Target) -> Answer:
    target.execute("VACUUM FULL batch_rows")
    return ()


def _count_rows(target: Target) -> None:
    """Let the session know the number of rows, so that the sort need not count them."""
    _vacuum(target)
    target.execute("SELECT set_config('tde_bench.rows', count(*)::text, false) FROM batch_rows")


def _sort(target: Target) -> Answer:
    """Sort all rows; the offset makes the server finish the sort and return only its end."""
    target.settings(max_parallel_workers_per_gather=0, enable_indexscan="off", work_mem="4MB")
    return target.fetch(
        'SELECT note, id, amount FROM batch_rows ORDER BY note COLLATE "C", id '
        "OFFSET current_setting('tde_bench.rows')::bigint - 1"
    )


def _join(target: Target) -> Answer:
    target.settings(
        max_parallel_workers_per_gather=2,
        min_parallel_table_scan_size=0,
        parallel_setup_cost=0,
        parallel_tuple_cost=0,
        enable_mergejoin="off",
        enable_nestloop="off",
        # Too little for the smaller table, which is thus joined in batches that go through files.
        work_mem="1MB",
    )
    if "Parallel Hash" not in (plan := target.plan(_JOIN)):
        raise BenchError(f"{target.server.configuration.label} does not join in parallel:\n{plan}")
    return target.fetch(_JOIN)


def _dump(target: Target) -> Answer:
    target.server.run_program("pg_dump", "--file=/dev/null", f"--dbname={target.server.dsn}")
    return ()


def _base_backup(target: Target) -> Answer:
    target.server.run_program(
        "pg_basebackup",
        *(f"--pgdata={target.server.folder / _BACKUP}", f"--dbname={target.server.dsn}"),
        # What tde adds in any case: the server sends encrypted pages, which have no checksum that
        # it could verify. Without it, the plain server alone would do that work.
        "--no-verify-checksums",
        # Writing a thousand small files to the disk takes longer than all the rest, and equally
        # long with and without encryption. The backup is removed at once.
        *("--checkpoint=fast", "--wal-method=stream", "--no-sync"),
    )
    return ()


def _remove_backup(target: Target) -> None:
    shutil.rmtree(target.server.folder / _BACKUP)


def _crash(target: Target) -> None:
    """Change every row after a checkpoint, so that recovery has to do it again."""
    target.checkpoint()
    target.execute("UPDATE batch_rows SET amount = amount + 1")
    target.crash()


def _compare_after_crash(target: Target) -> None:
    """Check that what was committed before the crash is there."""
    changed, copied = (
        target.fetch(f"SELECT count(*), sum(amount) FROM {table}")
        for table in ("batch_rows", "batch_copy")
    )
    rows = copied[0]
    # Every row was changed by the phase "update" and before the crash.
    if changed != (rows, copied[1] + 2 * rows):
        raise BenchError(
            f"{target.server.configuration.label} lost changes in the crash: {changed}, "
            f"where {copied} was before two increments of each row"
        )
