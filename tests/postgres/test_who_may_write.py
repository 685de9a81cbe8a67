"""What docs/threat-model.md says of those who may write to the volume and have no key.

Nothing stops them yet. Each attack is done here, and what the document says notices it is seen to:
whoever seals one of these files changes the test and the table.
"""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
import time
from pathlib import Path

import psycopg2
import pytest

from tde.audit import audit
from tde.keystore import Keystore
from tests.conftest import RunningCluster
from tests.postgres.cluster_copies import configure
from tests.postgres.control_files import crc32c, crc_position

TDE = Path(sys.executable).with_name("tde")
NONCE_BYTES = 32


@pytest.fixture
def made(encrypted_cluster_factory, any_binaries) -> RunningCluster:
    return encrypted_cluster_factory(any_binaries)


def run(made: RunningCluster, verb: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    where = ["-D", str(made.data_directory), "--bindir", str(made.cluster.binaries.bindir)]
    return subprocess.run(
        [TDE, "pg", verb, *where, *arguments],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=120,
        check=False,
    )


def test_two_lines_of_configuration_steal_the_key_and_are_named(made):
    """A program that the server starts reads what the server's user may read."""
    made.cluster.stop()
    secret = Keystore.enable_auto_open(made.keystore)
    loot = made.data_directory.parent / "loot"
    configure(made, ["archive_mode = on", f"archive_command = 'cp {secret} {loot}'"])
    options = "-c listen_addresses='' -c fsync=off -c shared_buffers=16MB"
    started = run(made, "start", "-o", options)
    assert started.returncode == 0, started.stderr
    assert f"archive_command = 'cp {secret.parent}"[:60] in started.stderr
    made.query("CREATE TABLE t AS SELECT 1")
    made.query("SELECT pg_switch_wal()")
    deadline = time.monotonic() + 30
    while not (loot.exists() and loot.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert loot.read_bytes() == secret.read_bytes()


def test_two_bits_of_pg_xact_commit_a_transaction_that_was_rolled_back(made):
    made.query("CREATE TABLE account (balance integer)")
    connection = psycopg2.connect(**made.cluster.connection_parameters())
    with connection.cursor() as cursor:
        cursor.execute("INSERT INTO account VALUES (1000000)")
        cursor.execute("SELECT txid_current()")
        (transaction,) = cursor.fetchone()
    connection.rollback()
    connection.close()
    made.query("CHECKPOINT")
    made.cluster.stop()
    path = made.data_directory / "pg_xact/0000"
    content = bytearray(path.read_bytes())
    shift = 2 * (transaction % 4)
    assert content[transaction // 4] >> shift & 3 == 2  # Aborted.
    content[transaction // 4] ^= 3 << shift
    path.write_bytes(content)
    assert audit(made.cluster, made.keystore).clean  # As the table says: nothing notices.
    made.start()
    assert made.query("SELECT balance FROM account") == [(1000000,)]


def test_one_field_of_pg_control_switches_checksums_off_and_doctor_says_so(made):
    made.cluster.stop()
    path = made.data_directory / "global/pg_control"
    content = bytearray(path.read_bytes())
    at = crc_position(content)
    field = next(
        place
        for place in range(at - NONCE_BYTES - 4, at - NONCE_BYTES - 16, -4)
        if struct.unpack_from("=I", content, place)[0] == 1
    )
    struct.pack_into("=I", content, field, 0)
    struct.pack_into("=I", content, at, crc32c(bytes(content[:at])))
    path.write_bytes(content)
    made.start()
    assert made.query("SHOW data_checksums") == [("off",)]
    shown = json.loads(run(made, "doctor", "--json").stdout)
    (found,) = [finding for finding in shown["findings"] if finding["check"] == "checksums"]
    assert found["verdict"] == "problem"
    assert not json.loads(run(made, "status", "--json").stdout)["data_checksums"]


def test_the_master_key_is_out_of_reach_of_who_may_only_read(made):
    """A copy of the volume, without the keystore, holds neither keys nor a way to them."""
    made.cluster.stop()
    names = {path.name for path in made.data_directory.rglob("*")}
    assert not names & {"keystore.json", "auto-open.key", "wal.key"}
    assert not [name for name in names if name.startswith("accepted-lines")]
    assert os.fsencode(made.keystore.path) in (made.data_directory / "tde.json").read_bytes()
