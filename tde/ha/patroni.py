"""The configuration of a Patroni node, complete but for passwords."""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class PatroniNode:
    """One node.

    Attributes:
        scope: the name of the cluster, the same on all nodes.
        name: of this node.
        address: of this node, for the others and for clients.
        etcd: ``HOST:PORT`` of each server of etcd.
        network: from which nodes and clients connect.
        bin_directory: of tde pg install-bin.
        keystore: on this node.
        tde: the program.
    """

    scope: str
    name: str
    address: str
    port: int
    etcd: tuple[str, ...]
    network: str
    pgdata: Path
    bin_directory: Path
    keystore: Path
    tde: Path
    synchronous: bool


_TEXT = """\
# patroni.yml of {name}. Passwords are missing where it says CHANGE. Let only the server's user
# read this file.
scope: {scope}
name: {name}
restapi:
  listen: {rest}
  connect_address: {rest}
etcd3:
  hosts: {etcd}
bootstrap:
  dcs:
    ttl: 20
    loop_wait: 5
    retry_timeout: 5
    # A primary that was killed is taken over at once, and not waited for.
    primary_start_timeout: 0
    synchronous_mode: {synchronous}
    postgresql:
      use_pg_rewind: true
      use_slots: true
      parameters:
        wal_level: replica
        wal_keep_size: 1GB
        # A standby that is cut off is noticed after this, and commits go on without it.
        wal_sender_timeout: 15s
        wal_receiver_timeout: 15s
  initdb:
    - encoding: UTF8
    # pg_rewind needs them.
    - data-checksums
postgresql:
  listen: {listen}
  connect_address: {connect}
  data_dir: {pgdata}
  # Made by tde pg install-bin: what Patroni runs from here gets the keys.
  bin_dir: {bin_directory}
  # A node whose keystore does not open, or lacks keys, is not promoted; another one gets its turn.
  pre_promote: {check}
  # What would keep the next start from succeeding stands in Patroni's log, while there is time.
  callbacks:
    on_start: {check}
  authentication:
    superuser:
      username: postgres
      password: CHANGE
    replication:
      username: repli
      password: CHANGE
    rewind:
      username: rewind
      password: CHANGE
  pg_hba:
    - local all all peer
    - {hosts}
    - host all all 127.0.0.1/32 scram-sha-256
    - {replication}
    - host replication repli 127.0.0.1/32 scram-sha-256
"""


def patroni_configuration(node: PatroniNode) -> str:
    """Return the text of patroni.yml."""
    check = [node.tde, "ha", "check", "-D", node.pgdata, "--keystore", node.keystore]
    check += ["--bindir", node.bin_directory, "--quiet"]
    values = {
        "scope": node.scope,
        "name": node.name,
        "rest": f"{node.address}:8008",
        "etcd": list(node.etcd),
        "synchronous": node.synchronous,
        "listen": f"{node.address},127.0.0.1:{node.port}",
        "connect": f"{node.address}:{node.port}",
        "pgdata": str(node.pgdata),
        "bin_directory": str(node.bin_directory),
        "check": shlex.join(map(str, check)),
        "hosts": f"host all all {node.network} scram-sha-256",
        "replication": f"host replication repli {node.network} scram-sha-256",
    }
    # What JSON quotes, YAML reads.
    return _TEXT.format(**{name: json.dumps(value) for name, value in values.items()})
