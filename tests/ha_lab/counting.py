"""What a client's notes say: how long nobody could write, and whether a row was lost."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from tests.ha_lab.lab import REPOSITORY, SERVICE_ADDRESS, Lab, in_switch, wait_until

# A dead server is noticed by its client within seconds, and not after the kernel's two hours.
CONNINFO = (
    "host={address} user=postgres dbname=postgres connect_timeout=2 keepalives_idle=1 "
    "keepalives_interval=1 keepalives_count=2 tcp_user_timeout=3000"
)


@dataclass(frozen=True)
class Count:
    """The rows of one event.

    Attributes:
        outage_seconds: the longest time between two acknowledgements.
        lost: rows that were acknowledged and are not there.
    """

    acknowledged: int
    lost: int
    outage_seconds: float


class Load:
    """A client that writes now."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def notes(self) -> list[dict[str, Any]]:
        """Return what it has noted; the last line may be half written."""
        try:
            text = self._path.read_text(encoding="ascii")
        except FileNotFoundError:
            return []
        return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]

    def acknowledged(self) -> list[tuple[float, int]]:
        """Return the time and number of each row that was acknowledged."""
        return [(one["t"], one["id"]) for one in self.notes() if one["kind"] == "acknowledged"]

    def wait_for_rows(self, more: int, seconds: float) -> None:
        """Wait until more rows were acknowledged."""
        have = len(self.acknowledged())
        wait_until(lambda: len(self.acknowledged()) >= have + more, seconds, f"{more} rows")

    def count(self, present: set[int]) -> Count:
        """Compare with the rows that are there."""
        rows = self.acknowledged()
        times = [t for t, _ in rows]
        gaps = [later - earlier for earlier, later in pairwise(times)]
        lost = {number for _, number in rows} - present
        return Count(len(rows), len(lost), round(max(gaps, default=0.0), 2))

    @property
    def first(self) -> int:
        """The number of its first row."""
        return min(number for _, number in self.acknowledged())


@contextmanager
def writing(lab: Lab, address: str = SERVICE_ADDRESS) -> Iterator[Load]:
    """Have a client write while the body runs."""
    path = lab.directory / "runs" / f"{time.time():.3f}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    conninfo = CONNINFO.format(address=address)
    client = subprocess.Popen(
        in_switch(sys.executable, "-m", "tests.ha_lab.client", conninfo, path),
        cwd=REPOSITORY,
        stdin=subprocess.DEVNULL,
        stderr=lab.log("client.log").open("ab"),
    )
    load = Load(path)
    try:
        load.wait_for_rows(100, 60)
        yield load
    finally:
        client.send_signal(signal.SIGTERM)
        client.wait(20)
