"""One process of the TPC-C-like load: ``python -m tde_bench.workloads.tpcc.worker``.

It reads its orders as JSON from standard input, connects its sessions, prints a line, waits for
a line, and then runs transactions until its time is up. A password comes from PGPASSWORD. The
result is one line of JSON; the times of the transactions go to a file.
"""

from __future__ import annotations

import json
import random
import sys
import threading
import time
from dataclasses import dataclass, field

import numpy as np
import psycopg2
from psycopg2 import errors

from tde_bench.servers.database import Connection
from tde_bench.workloads.tpcc.transactions import MIX, new_order


@dataclass(frozen=True)
class Orders:
    """What one process does; ``first_client`` numbers its sessions among those of all."""

    dsn: str
    warehouses: int
    clients: int
    first_client: int
    seconds: float
    seed: int
    latency_file: str


@dataclass
class Tally:
    """What one session did."""

    milliseconds: list[float] = field(default_factory=list)
    new_orders: int = 0
    failed: int = 0
    end: float = 0.0
    error: str | None = None


def _session(connection: Connection, orders: Orders, number: int, start: float) -> Tally:
    """Run transactions on one connection until the time is up."""
    chance = random.Random(f"{orders.seed}/{orders.first_client + number}")
    transactions, weights = zip(*MIX, strict=True)
    tally = Tally()
    deadline = start + orders.seconds
    while (begin := time.perf_counter()) < deadline:
        (transaction,) = chance.choices(transactions, weights)
        try:
            with connection, connection.cursor() as cursor:
                done = transaction(cursor, chance, orders.warehouses)
                if not done:
                    connection.rollback()
        except (errors.DeadlockDetected, errors.SerializationFailure):
            tally.failed += 1
            continue
        tally.milliseconds.append(1000 * (time.perf_counter() - begin))
        if done and transaction is new_order:
            tally.new_orders += 1
    tally.end = time.perf_counter()
    return tally


def main() -> None:
    """Do what standard input says."""
    orders = Orders(**json.loads(sys.stdin.readline()))
    connections = [psycopg2.connect(orders.dsn) for _ in range(orders.clients)]
    print("ready", flush=True)
    sys.stdin.readline()
    start = time.perf_counter()
    tallies: list[Tally] = []

    def run(connection: Connection, number: int) -> None:
        try:
            tallies.append(_session(connection, orders, number, start))
        except Exception as error:  # A thread's exception would otherwise only be printed.
            tallies.append(Tally(error=f"{type(error).__name__}: {error}", end=start))

    threads = [
        threading.Thread(target=run, args=(connection, number))
        for number, connection in enumerate(connections)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    latencies = [value for tally in tallies for value in tally.milliseconds]
    np.save(orders.latency_file, np.array(latencies, dtype=np.float64))
    result = {
        "transactions": len(latencies),
        "new_orders": sum(tally.new_orders for tally in tallies),
        "failed": sum(tally.failed for tally in tallies),
        "seconds": max(tally.end for tally in tallies) - start,
        "errors": [tally.error for tally in tallies if tally.error],
    }
    print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
