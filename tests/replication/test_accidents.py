"""A full archive disk, a connection that is cut during a base backup, two primaries."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest

from tests.conftest import RunningCluster
from tests.postgres.canaries import CANARY
from tests.replication.test_keys_on_standbys import wait_for, wait_until_replayed
from tests.replication.test_standby_commands import (
    Pair,
    Run,
    conninfo,
    is_standby,
    pair as pair,
    rows,
    slots,
)
from tests.small_disk import small_disk
from tests.tools.test_patroni import free_ports

SIZE_MB = 40
ARCHIVED = "SELECT archived_count FROM pg_stat_archiver"


@pytest.fixture(name="small_disk")
def small_disk_of_test(os_user, os_user_tmp_path: Path) -> Iterator[Path]:
    with small_disk(os_user_tmp_path / "small", SIZE_MB, os_user) as directory:
        yield directory


def test_a_full_archive_disk_loses_nothing(
    any_binaries, encrypted_cluster_factory, small_disk: Path, tde_command: Run
) -> None:
    archive = small_disk / "archive"
    options = {
        "archive_mode": "on",
        # As PostgreSQL's documentation says: what is there already is never replaced.
        "archive_command": f"mkdir -p {archive} && test ! -f {archive}/%f && "
        f"cp %p {archive}/%f.part && mv {archive}/%f.part {archive}/%f",
    }
    made = encrypted_cluster_factory(any_binaries, options=options, initdb_args=["--wal-segsize=1"])
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes((SIZE_MB - 4) << 20))
    made.query("CREATE TABLE t (n int, x text)")
    for number in range(8):
        text = f"repeat('{CANARY.decode()}', 50)"
        made.query(f"INSERT INTO t SELECT {number}, {text} FROM generate_series(1, 1000)")
        made.query("SELECT pg_switch_wal()")
    wait_for(lambda: made.query("SELECT failed_count > 0 FROM pg_stat_archiver") == [(True,)])
    shown = tde_command("pg", "doctor", "-D", made.data_directory, exit_code=None).stdout
    assert "the last try to archive WAL failed" in " ".join(shown.split())
    # A backup beside it fails, says so, and leaves nothing of itself.
    backup = small_disk / "backup"
    command = ("pg", "backup", backup, "-D", made.data_directory, "--passphrase-fd", "0")
    refused = tde_command(*command, exit_code=1)
    assert "No space left on device" in refused.stderr
    assert sorted(path.name for path in small_disk.iterdir()) == ["archive", "ballast"]
    assert made.query("SELECT count(*) FROM t") == [(8000,)]

    ballast.unlink()
    last = made.query("SELECT pg_walfile_name(pg_switch_wal())")[0][0]
    wait_for(lambda: (archive / last).exists(), 120)
    names = sorted(path.name for path in archive.iterdir() if len(path.name) == 24)
    first = int(names[0], 16)
    assert [int(name, 16) for name in names] == list(range(first, first + len(names)))


class CutCable:
    """Passes connections on to a server, and cuts them all after so many bytes from it."""

    def __init__(self, server: int, port: int, after: int) -> None:
        self._server, self._left = server, after
        self._listener = socket.create_server(("127.0.0.1", port))
        self._sockets: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(("127.0.0.1", self._server))
                self._sockets += [client, server]
                for source, target in ((client, server), (server, client)):
                    counted = source is server
                    threading.Thread(
                        target=self._pass, args=(source, target, counted), daemon=True
                    ).start()

    def _pass(self, source: socket.socket, target: socket.socket, counted: bool) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 16):
                if counted:
                    self._left -= len(data)
                    if self._left < 0:
                        self.close()
                        return
                target.sendall(data)
        with suppress(OSError):
            target.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        self._listener.close()
        for one in self._sockets:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)


def test_a_connection_that_is_cut_during_the_base_backup(
    any_binaries, encrypted_cluster_factory, os_user_tmp_path: Path, tde_command: Run
) -> None:
    """Nothing of the standby is left, and the next try goes well."""
    port, cut = free_ports(2)
    options = {"listen_addresses": "127.0.0.1", "port": str(port)}
    primary = encrypted_cluster_factory(any_binaries, options=options)
    primary.query("CREATE TABLE t AS SELECT repeat('x', 500) FROM generate_series(1, 20000)")
    user = conninfo(primary).rpartition("user=")[2]
    directory = os_user_tmp_path / "standby"
    (primary.data_directory / "pg_hba.conf").write_text(
        "local all all trust\nhost all all 127.0.0.1/32 trust\n"
        "local replication all trust\nhost replication all 127.0.0.1/32 trust\n"
    )
    primary.query("SELECT pg_reload_conf()")

    def make(through: int, exit_code: int) -> str:
        where = f"host=127.0.0.1 port={through} user={user}"
        done = tde_command(
            *("pg", "standby", directory, "--primary", where, "--slot", "second"),
            *("--keystore", primary.keystore.path, "--bindir", any_binaries.bindir),
            *("-o", f"-c listen_addresses= -c port={port}", "--passphrase-fd", "0"),
            exit_code=exit_code,
        )
        return str(done.stderr)

    with closing(CutCable(port, cut, after=20 << 20)):
        shown = " ".join(make(cut, exit_code=1).split())
    assert "pg_basebackup of" in shown
    # Nobody reaches the server to drop the slot, so that is said; the next try takes it.
    assert "second of 127.0.0.1" in shown
    assert "pg_drop_replication_slot('second')" in shown
    assert not directory.exists()
    assert slots(primary) == [("second", False)]
    make(port, exit_code=0)
    wait_for(lambda: slots(primary) == [("second", True)])
    tde_command("pg", "stop", "-D", directory)


def test_two_primaries_do_not_destroy_each_other(pair: Pair) -> None:
    """Promoted while the old one still runs: each has rows that the other has not."""
    pair.make("--slot", "second")
    wait_until_replayed(pair.primary, pair.standby)
    pair.tde("pg", "promote", "-D", pair.standby.data_directory)
    pair.primary.query("INSERT INTO t VALUES (10)")
    pair.standby.query("INSERT INTO t VALUES (20)")

    def both() -> tuple[list[int], list[int]]:
        return rows(pair.primary), rows(pair.standby)

    def refused(*command: object) -> str:
        done = pair.tde(*command, "--passphrase-fd", "0", exit_code=1)
        return " ".join(str(done.stderr).split())

    old, new = pair.primary, pair.standby
    for one, other in ((old, new), (new, old)):
        where = ("-D", one.data_directory)
        assert "is already running" in refused("pg", "rejoin", *where, "--primary", conninfo(other))
        assert refused("pg", "switchover", *where, "--to", conninfo(other))
        assert _is_alone(one)
    assert both() == ([1, 10], [1, 20])
    pair.tde("pg", "stop", "-D", old.data_directory)
    pair.rejoin(old)
    assert is_standby(old)
    assert both() == ([1, 20], [1, 20])


def _is_alone(made: RunningCluster) -> bool:
    return not is_standby(made) and made.query("SELECT count(*) FROM pg_stat_replication") == [(0,)]
