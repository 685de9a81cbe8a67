"""Standbys, archives and backups under load while any of them is killed: all keep all rows.

TEST_SOAK_ROUNDS=500 TEST_SOAK_SEED=1 pytest -m slow tests/replication/test_soak.py
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator

import pytest

from tde.postgres import audit
from tests.postgres.canaries import CANARY, files_with
from tests.replication.family import Family, wait_for

ROUNDS = int(os.environ.get("TEST_SOAK_ROUNDS", "30"))
SEED = int(os.environ.get("TEST_SOAK_SEED", "20261128"))
log = logging.getLogger("soak")


@contextlib.contextmanager
def family(factory, binaries, directory, seed: int) -> Iterator[Family]:
    made = Family(factory, binaries, directory, seed)
    try:
        yield made
    finally:
        made.close()


def take_over(made: Family) -> None:
    """Two failovers, one after the other; each new primary is killed and starts again."""
    made.primary.query("INSERT INTO acknowledged VALUES (-3, 'in the middle of a segment')")
    position = made.primary.query("SELECT pg_current_wal_flush_lsn()")[0][0]
    made.wait_until_replayed(made.standby, position)
    made.primary.cluster.stop("immediate")
    made.standby.query("SELECT pg_promote()")
    wait_for(lambda: made.standby.query("SELECT pg_is_in_recovery()") == [(False,)], "promotion")
    # The part of a segment that it had received is archived under a name of its own.
    wait_for(lambda: bool([*made.archive.glob("*.partial")]), "the archive has the last segment")
    made.standby.query("INSERT INTO acknowledged VALUES (-1, 'first failover')")
    made.standby.query("SELECT pg_switch_wal()")
    position = made.standby.query("SELECT pg_current_wal_flush_lsn()")[0][0]
    made.wait_until_replayed(made.cascade, position)
    made.kill_standby()
    made.cascade.query("SELECT pg_promote()")
    wait_for(lambda: made.cascade.query("SELECT pg_is_in_recovery()") == [(False,)], "promotion")
    made.cascade.query("INSERT INTO acknowledged VALUES (-2, 'second failover')")
    made.kill_cascade()
    for server, wanted in ((made.standby, {-1}), (made.cascade, {-1, -2})):
        rows = {n for (n,) in server.query("SELECT n FROM acknowledged")}
        assert rows.issuperset(made.acknowledged | wanted)


def finish(made: Family) -> None:
    """Compare archives, fail over, and prove that all of it is ciphertext."""
    assert made.compare_archives() >= 3
    take_over(made)
    made.require_quiet_logs()
    for server in (made.standby, made.cascade):
        server.cluster.stop()
        report = audit(server.cluster, made.keystore, archives=[made.archive])
        assert report.clean, report.findings
    assert files_with(CANARY, made.archive, made.received, made.primary.data_directory) == []


@pytest.mark.slow
def test_every_member_is_killed_once(
    binaries_older_slow, encrypted_cluster_factory, os_user_tmp_path
):
    with family(encrypted_cluster_factory, binaries_older_slow, os_user_tmp_path, SEED) as made:
        events = (
            made.rotate_wal,
            made.kill_receiver,
            made.kill_cascade,
            made.rotate_wal,
            made.kill_primary,
            made.back_up,
            made.kill_standby,
            made.audit_primary,
            made.rotate_wal,
        )
        with made.load():
            for event in events:
                made.go_on()
                event()
        made.verify()
        finish(made)


@pytest.mark.slow
@pytest.mark.timeout(1200 + 60 * ROUNDS)
def test_members_are_killed_again_and_again(binaries, encrypted_cluster_factory, os_user_tmp_path):
    with family(encrypted_cluster_factory, binaries, os_user_tmp_path, SEED) as made:
        events = {
            made.kill_receiver: 3,
            made.kill_cascade: 2,
            made.kill_primary: 2,
            made.kill_standby: 2,
            made.back_up: 1,
            made.audit_primary: 1,
            made.rotate_wal: 2,
        }
        for number in range(ROUNDS):
            with made.load():
                for event in made.chooser.choices([*events], [*events.values()], k=3):
                    made.go_on(made.chooser.randrange(200))
                    log.info("round %d: %s", number, event.__name__)
                    event()
            made.verify()
        finish(made)
