"""kill -9 under load, again and again: nothing that was acknowledged is lost."""

from __future__ import annotations

import contextlib
import random
import threading
import time

import psycopg2
import pytest

from tests.postgres.canaries import CANARY, files_with, settle
from tests.postgres.crashes.file_rewrites import kill_backend, kill_server, running_pgbench
from tests.postgres.tpcb import pgbench, tpcb_sums


class Acknowledged(threading.Thread):
    """Inserts numbers and remembers those whose commit was acknowledged."""

    def __init__(self, parameters: dict[str, object], first: int) -> None:
        # A daemon, so that a test that fails before it kills the server does not hang at exit.
        super().__init__(daemon=True)
        self.parameters = parameters
        self.numbers: list[int] = []
        self.next = first

    def run(self) -> None:
        with (
            contextlib.suppress(psycopg2.Error),
            contextlib.closing(psycopg2.connect(**self.parameters)) as connection,
        ):
            connection.autocommit = True
            cursor = connection.cursor()
            while True:
                cursor.execute(
                    "INSERT INTO acknowledged VALUES (%s, %s)", (self.next, CANARY.decode())
                )
                self.numbers.append(self.next)
                self.next += 1


def crash_under_load(cluster, chooser: random.Random, round_number: int) -> list[int]:
    """Kill the server at a random moment; returns the numbers acknowledged until then."""
    writer = Acknowledged(cluster.cluster.connection_parameters(), round_number * 1_000_000)
    with running_pgbench(cluster):
        writer.start()
        time.sleep(chooser.uniform(0.1, 1.0))
        if round_number % 4 == 3:
            kill_backend(cluster.cluster.pid, chooser)
            time.sleep(0.2)
        kill_server(cluster.cluster.pid)
    writer.join(timeout=30)
    assert not writer.is_alive(), "a session outlived its server"
    return writer.numbers


@pytest.mark.timeout(900)
@pytest.mark.parametrize("rounds", [8, pytest.param(40, marks=pytest.mark.slow)])
def test_nothing_acknowledged_is_lost_by_kill_9_under_load(
    binaries_older_slow, encrypted_cluster_factory, rounds
):
    chooser = random.Random(20261122)
    options = {"checkpoint_timeout": "30s", "max_wal_size": "64MB", "restart_after_crash": "on"}
    cluster = encrypted_cluster_factory(binaries_older_slow, options=options)
    pgbench(cluster, "-i", "-s", "2", "-q")
    cluster.query("CREATE TABLE acknowledged (n int PRIMARY KEY, x text)")
    acknowledged: list[int] = []
    for round_number in range(rounds):
        acknowledged += crash_under_load(cluster, chooser, round_number)
        cluster.start(options)
        assert len(tpcb_sums(cluster)) == 1, f"the sums differ after crash {round_number + 1}"
        present = {row[0] for row in cluster.query("SELECT n FROM acknowledged")}
        assert present.issuperset(acknowledged), f"rows lost in crash {round_number + 1}"
    assert len(acknowledged) > rounds
    settle(cluster)
    assert files_with(CANARY, cluster.data_directory) == []
