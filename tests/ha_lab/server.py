"""The servers of the two nodes, stock or encrypted, before a cluster manager has them."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from tests.ha_lab.lab import HOME, NODES, Lab, Mode
from tests.ha_lab.node import PGDATA, Node

TDE = Path(sys.executable).with_name("tde")
KEYSTORE, PROGRAMS, ARCHIVE, LOGS = (HOME / name for name in ("keystore", "bin", "arch", "log"))
_PASSPHRASE = HOME / "passphrase"
_SETTINGS = """\
listen_addresses = '*'
wal_level = replica
max_wal_senders = 10
wal_keep_size = 256MB
archive_mode = always
archive_command = 'cp %p {archive}/%f'
hot_standby_feedback = on
max_standby_streaming_delay = -1
wal_receiver_status_interval = 2
restart_after_crash = off
shared_buffers = 64MB
wal_sender_timeout = 15s
wal_receiver_timeout = 15s
log_line_prefix = '%m [%p] '
"""
ACCESS = """\
host all all 10.77.0.0/22 trust
host replication all 10.77.0.0/22 trust
"""


@dataclass(frozen=True)
class Servers:
    """What both nodes have."""

    lab: Lab
    mode: Mode

    @property
    def nodes(self) -> tuple[Node, Node]:
        """Both nodes."""
        return Node(self.lab, NODES[0]), Node(self.lab, NODES[1])

    @property
    def bin_directory(self) -> Path:
        """The programs that a cluster manager uses."""
        return PROGRAMS if self.mode is Mode.ENCRYPTED else self.lab.stock

    def prepare(self) -> None:
        """Make directories and, for encrypted servers, keystores and programs; as a DBA does."""
        for node in self.nodes:
            directories = " ".join(str(HOME / name) for name in ("arch", "log", "tmp"))
            node.shell(
                f"chown postgres: {HOME}; chmod 700 {HOME}; "
                f"runuser -u postgres -- mkdir -p -m 700 {directories}"
            )
        if self.mode is Mode.ENCRYPTED:
            self._make_keystores()

    def _make_keystores(self) -> None:
        first, second = self.nodes
        first.write(_PASSPHRASE, "a passphrase of the lab\n", user="postgres")
        first.shell(f"chmod 600 {_PASSPHRASE}", user="postgres")
        secret = ("--passphrase-file", _PASSPHRASE)
        self._tde(first, "keystore", "create", "-k", KEYSTORE, *secret)
        self._tde(first, "keystore", "auto-open", "enable", "-k", KEYSTORE, *secret)
        install = ("pg", "install-bin", PROGRAMS, "-k", KEYSTORE, "--bindir", self.lab.stock)
        self._tde(first, *install, *secret)
        # Of the whole directory, with auto-open.key: both nodes are one trust domain here.
        copy = self.lab.directory / "keystore.tar"
        first.shell(f"tar -C {HOME} -cpf {copy} keystore")
        second.shell(f"tar -C {HOME} -xpf {copy}; rm {copy}")
        self._tde(second, *install)

    def _tde(self, node: Node, *words: object) -> None:
        node.run(TDE, *words, user="postgres")

    def make_primary(self) -> None:
        """Run initdb on the first node."""
        first = self.nodes[0]
        options = ("-k", "--auth=trust", "--no-instructions")
        first.run(self.bin_directory / "initdb", "-D", PGDATA, *options, user="postgres")
        settings = _SETTINGS.format(archive=ARCHIVE)
        first.write(PGDATA / "postgresql.conf", settings, user="postgres", append=True)
        first.write(PGDATA / "pg_hba.conf", ACCESS, user="postgres", append=True)

    def take_base_backup(self, node: Node, address: str) -> None:
        """Make a node's data directory a copy of the primary."""
        if self.mode is Mode.ENCRYPTED and (node.home / PGDATA.name).exists():
            # A copy has the name of the other node in its configuration.
            source = f"host={address} user=postgres dbname=postgres"
            options = ("--primary", source, "--name", node.name, "--no-start", "--base-backup")
            node.run(TDE, "pg", "rejoin", "-D", PGDATA, *options)
            node.shell(f"rm -rf {PGDATA}.before-*")
            return
        node.run("rm", "-rf", PGDATA)
        options = ("-D", PGDATA, "-X", "stream", "-c", "fast", "-h", address, "-U", "postgres")
        node.run(self.bin_directory / "pg_basebackup", *options, user="postgres")

    def rewind(self, node: Node, address: str) -> None:
        """Bring a node that was the primary to where the new one is, as docs/ha.md does."""
        source = f"host={address} user=postgres dbname=postgres"
        if self.mode is Mode.ENCRYPTED:
            options = ("--primary", source, "--name", node.name, "--no-start")
            node.run(TDE, "pg", "rejoin", "-D", PGDATA, *options)
            return
        node.run("rm", "-f", PGDATA / "standby.signal")
        # Before 16 pg_rewind takes an old timeline for the current one until the checkpoint of the
        # promotion has ended.
        psql = (self.lab.stock / "psql", source, "-c", "CHECKPOINT")
        node.run(*psql, user="postgres")
        words = (self.bin_directory / "pg_rewind", "-D", PGDATA, f"--source-server={source}")
        node.run(*words, user="postgres")
