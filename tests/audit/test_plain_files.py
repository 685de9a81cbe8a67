"""The list of files that are plain by design, and the ends of files that are judged in Python."""

from __future__ import annotations

import math
import os
from pathlib import Path

import pytest

from tde.audit.randomness import _LIMITS, SHORTEST, looks_random
from tde.postgres.cluster.plain_files import (
    PLAIN_BY_DESIGN,
    is_written_by_server,
    plain_rule,
)

COVERAGE = Path(__file__).parents[2] / "docs/coverage.md"


def test_the_documentation_shows_the_same_list():
    lines = COVERAGE.read_text(encoding="utf-8").splitlines()
    start = lines.index("## Plain by design")
    end = next(n for n in range(start + 1, len(lines)) if lines[n].startswith("## "))
    shown = {line for line in lines[start:end] if line.startswith("| `")}
    rules = [rule for rule in PLAIN_BY_DESIGN if not rule.decision]
    assert shown == {f"| {rule.files} | {rule.reason} |" for rule in rules}
    decisions = [rule for rule in PLAIN_BY_DESIGN if rule.decision]
    for rule in decisions:
        assert any(line.startswith(f"| {rule.files} | {rule.reason} |") for line in lines[end:])


# What PostgreSQL 15 to 19 and modules of contrib write, wherever its names come from.
SERVER_NAMES = [
    "global/pg_control",
    "PG_VERSION",
    "base/5/PG_VERSION",
    "base/5/pg_filenode.map.tmp",
    "global/pg_filenode.map",
    "global/pg_internal.init.4711",
    "pg_tblspc/16384/PG_15_202209061/5/pg_internal.init.4711",
    "pg_tblspc/16384/PG_18_202506291/5/PG_VERSION",
    "pg_xact/0000",
    "pg_xact/000000000000ABC",
    "pg_subtrans/0000",
    "pg_serial/000000000000001",
    "pg_commit_ts/0001",
    "pg_multixact/offsets/0000",
    "pg_multixact/members/0001",
    "pg_twophase/0000000A",
    "pg_twophase/0000000000000A1B",
    "pg_logical/mappings/map-5-4eb-0_60D7A8-2ed-2ed",
    "pg_logical/replorigin_checkpoint.tmp",
    "pg_logical/snapshots/0-1565A20.snap",
    "pg_logical/snapshots/0-1565A20.snap.4711.tmp",
    "pg_replslot/standby/state.tmp",
    "pg_replslot/standby.tmp/state",
    "pg_snapshots/00000003-0000001B-1.tmp",
    "pg_wal/00000002.history",
    "00000002.history",
    "000000010000000000000005.00000028.backup",
    "archive/archtemp.00000002.history.4711.1700000000000",
    "archive/archtemp.000000010000000000000005.00000028.backup.4711.17",
    "pg_wal/archive_status/000000010000000000000001.ready",
    "pg_wal/archive_status/00000002.history.done",
    "pg_wal/summaries/temp.summary",
    "pg_wal/summaries/0000000100000000010000280000000001000100.summary",
    "pg_stat/pgstat.stat",
    "pg_stat/pgstat.tmp",
    "backup_label.old",
    "tablespace_map.old",
    "postgresql.auto.conf.tmp",
    "postmaster.pid",
    "postmaster.opts",
    "promote",
    "autoprewarm.blocks.tmp",
    "pg_stash_advice.tsv",
    "pg_stash_advice.tsv.tmp",
    ".s.PGSQL.5432.lock",
    "sockets/.s.PGSQL.5432.lock",
]
# What only other programs put there.
OTHER_NAMES = [
    "conf.d/memory.conf",
    "pg_createsubscriber.conf",
    "pg_createsubscriber.conf.disabled",
    "server.key",
    # Of Patroni.
    "postgresql.base.conf",
    "postgresql.conf.backup",
    "postgresql.base.conf.backup",
    "pg_hba.conf.backup",
    "patroni.dynamic.json",
    "pg_stat_tmp/tde.standby.4711",
    "tde.json",
    "tde.keymap",
    ".tde.keymap.4711.tmp",
    ".tde.json.4711.tmp",
    "pg_upgrade_output.d/20261128T163006.123/log/pg_upgrade_internal.log",
]


@pytest.mark.parametrize("name", [*SERVER_NAMES, *OTHER_NAMES])
def test_files_without_row_data_are_plain_by_design(name):
    rule = plain_rule(name)
    assert rule is not None
    assert not rule.decision


def test_a_server_writes_its_own_files_and_no_others():
    assert [name for name in SERVER_NAMES if not is_written_by_server(name)] == []
    assert [name for name in (*OTHER_NAMES, "log/a.log") if is_written_by_server(name)] == []
    assert is_written_by_server("pg_stat_tmp/pgss_query_texts.stat")
    assert is_written_by_server("pg_stat/pg_stat_statements.stat.tmp")


@pytest.mark.parametrize(
    "name", ["pg_stat_tmp/pgss_query_texts.stat", "pg_stat/pg_stat_statements.stat", "log/a.log"]
)
def test_files_that_may_hold_pieces_of_rows_are_to_be_decided(name):
    rule = plain_rule(name)
    assert rule is not None
    assert rule.decision


@pytest.mark.parametrize(
    "name",
    [
        "base/5/16384.bak",
        "base/5/notes.conf",
        "dump.sql",
        "global/pg_control.d",
        "pg_xact/rows.txt",
        "pg_wal/rows",
        "pg_wal/rows.history",
        "base/5/PG_VERSION/rows",
        "postgresql.conf.rows",
        "pg_replslot/a/b/state",
        "pg_xact/",
        "",
        "tde_convert/journal",
        "core",
    ],
)
def test_other_names_are_not_in_the_list(name):
    assert plain_rule(name) is None


def test_ends_of_files_are_told_from_ciphertext():
    text = b"The quick brown fox jumps over the lazy dog, and nobody knows why it does so. " * 20
    for length in (SHORTEST, 200, 300, 511, 512, 600, 1000):
        assert looks_random(text[:length]) is False, length
        assert looks_random(os.urandom(length)) is True
    assert looks_random(text[: SHORTEST - 1]) is None
    assert looks_random(os.urandom(512) + text[:400]) is False
    assert looks_random(bytes(700)) is True


@pytest.mark.parametrize("length", list(_LIMITS))
def test_limits_for_short_ends_refuse_ciphertext_less_than_once_in_2_to_the_50(length):
    """The Chernoff bound of test_block_verdicts.py for each length."""
    limit = _LIMITS[length]
    mean = length / 256

    def log_poisson(count: int) -> float:
        return -mean + count * math.log(mean) - math.lgamma(count + 1)

    condition = length * math.log(length) - length - math.lgamma(length + 1)
    largest = next(
        n
        for n in range(1, 100)
        if 256 * math.exp(log_poisson(n + 1) - condition) / (1 - mean / (n + 2)) < 2**-51
    )

    def log_bound(tilt: float) -> float:
        terms = sum(math.exp(log_poisson(c) + tilt * c * c) for c in range(largest + 1))
        return 256 * math.log(terms) - tilt * (limit + 1)

    bound = min(log_bound(step / 5000) for step in range(1, 3000)) - condition
    assert math.exp(bound) < 2**-51
