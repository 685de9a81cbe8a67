"""Real processes and real signals: kill -9 at a random moment, and the next run finishes."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from tde.postgres import Cluster
from tde.postgres.cluster.unfinished_conversion import MOVED_CONTROL
from tests.convert.conversions import (
    content,
    encrypted_form,
    without_ours,
)
from tests.keystore.cheap_passphrase import PASSPHRASE


class Killer:
    """Runs ``tde pg`` and kills its whole process group at random moments."""

    def __init__(self, cluster: Cluster, keystore: Path, seed: int) -> None:
        self.cluster = cluster
        self.keystore = keystore
        self.chooser = random.Random(seed)
        self.kills = 0
        self.longest = 1.0  # Seconds from the moving of pg_control to the end, so far.

    def run(self, verb: str, *, kill: bool) -> bool:
        """Run once; tell whether it ended by itself."""
        process = subprocess.Popen(
            [
                Path(sys.executable).with_name("tde"),
                *("pg", verb, str(self.cluster.data_directory), "-k", str(self.keystore)),
                *("--passphrase-fd", "0", "-j", "2"),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        assert process.stdin is not None
        process.stdin.write(PASSPHRASE)
        process.stdin.close()
        process.stdin = None
        if kill:
            self._wait_for_a_moment(process)
            with suppress(ProcessLookupError):  # It was faster, and is done.
                os.killpg(process.pid, signal.SIGKILL)
        out, errors = process.communicate(timeout=120)
        if process.returncode == -signal.SIGKILL:
            self.kills += 1
            return False
        assert process.returncode == 0, (out + errors).decode()
        return True

    def _wait_for_a_moment(self, process: subprocess.Popen[bytes]) -> None:
        moved = self.cluster.data_directory / MOVED_CONTROL
        if self.chooser.random() < 0.2:
            time.sleep(self.chooser.uniform(0, 2))
            return
        while process.poll() is None and not moved.exists():
            time.sleep(0.001)
        # Small fractions too, because the steps before and after the blocks are short.
        wait = self.longest * self.chooser.choice([0.01, 0.1, 1]) * self.chooser.random()
        deadline = time.monotonic() + wait
        while process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.001)


def is_finished(cluster: Cluster, verb: str) -> bool:
    """Tell whether a conversion is complete, also one that was killed after its last step."""
    directory = cluster.data_directory
    done = (cluster.marker is not None) is (verb == "encrypt")
    return done and not any((directory / name).exists() for name in (MOVED_CONTROL, "tde_convert"))


def kill_and_resume(original, copy, keystore_factory, kills: int) -> None:
    """Convert to and fro until there were that many kills; every result is compared."""
    before = content(copy.data_directory)
    total = cycle = 0
    while total < kills:
        keystore = keystore_factory(f"keystore-{cycle}")
        cycle += 1
        killer = Killer(copy, keystore.path, cycle)
        for verb in ("encrypt", "decrypt"):
            here = 0
            # Several in one conversion, but not so many that it never comes to its end.
            while here < 5 and total + killer.kills < kills:
                if killer.run(verb, kill=True) or is_finished(copy, verb):
                    break
                here += 1
            if not is_finished(copy, verb):
                assert killer.run(verb, kill=False)
            wanted = encrypted_form(before, keystore) if verb == "encrypt" else before
            found = content(copy.data_directory)
            assert without_ours(found) == without_ours(wanted), f"{verb}, {total} kills"
        total += killer.kills
    assert content(copy.data_directory) == before


def test_a_killed_conversion_is_finished(original, copy, keystore_factory):
    kill_and_resume(original, copy, keystore_factory, 6)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_conversion_killed_fifty_times_is_finished(original, copy, keystore_factory):
    kill_and_resume(original, copy, keystore_factory, 50)
    # And it is a cluster still.
    copy.start(None, options={"listen_addresses": ""})
    copy.stop()
