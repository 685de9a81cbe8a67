"""Patroni with two nodes: it decides by the state in pg_control what a node needs to come back."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from tests.docs.pages import commands, indented
from tests.postgres.canaries import CANARY, files_with
from tests.tools.site import Site, require_tools, wait_for

TDE = Path(sys.executable).with_name("tde")
TEXT = CANARY.decode()
NODES = ("one", "two")


def free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


@dataclass
class Pair:
    """etcd and two Patronis, all on addresses of this machine's loopback."""

    site: Site
    etcd: tuple[int, int]
    rest: dict[str, int]
    ports: dict[str, int]
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def spawn(self, name: str, *command: object) -> None:
        user: dict[str, Any] = {}
        if self.site.os_user is not None:
            user = {"user": self.site.os_user.uid, "group": self.site.os_user.gid}
            user["extra_groups"] = []
        with self.log(name).open("ab") as log:
            self.processes[name] = subprocess.Popen(
                [str(part) for part in command],
                cwd=self.site.directory,
                env=self.site.environment(HOME=str(self.site.directory)),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                **user,
            )

    def log(self, name: str) -> Path:
        return self.site.directory / f"{name}.log"

    def data(self, node: str) -> Path:
        return self.site.directory / node

    def configuration(self, node: str) -> Path:
        return self.site.directory / f"{node}.json"

    def configure(self, node: str) -> None:
        """Write what YAML takes too, with the settings of the page."""
        page = yaml.safe_load("\n".join(indented("patroni.md", "Settings")))
        assert page["postgresql"]["bin_dir"] == "/srv/tde/bin"
        address = f"127.0.0.1:{self.ports[node]}"
        access = [f"host {what} all 127.0.0.1/32 trust" for what in ("all", "replication")]
        options = {"fsync": "off", "shared_buffers": "16MB", "wal_keep_size": "128MB"}
        settings: dict[str, Any] = {
            "scope": "pair",
            "name": node,
            "restapi": {
                "listen": f"127.0.0.1:{self.rest[node]}",
                "connect_address": f"127.0.0.1:{self.rest[node]}",
            },
            "etcd3": {"host": f"127.0.0.1:{self.etcd[0]}"},
            "bootstrap": {
                "dcs": {
                    **{"ttl": 20, "loop_wait": 1, "retry_timeout": 5, "primary_start_timeout": 0},
                    "postgresql": {"parameters": options},
                },
                "initdb": [*page["bootstrap"]["initdb"], "no-sync", {"auth": "trust"}],
            },
            "postgresql": {
                **{"listen": address, "connect_address": address},
                "data_dir": str(self.data(node)),
                **page["postgresql"],
                "bin_dir": str(self.site.programs.directory),
                "pgpass": str(self.site.directory / f"pgpass-{node}"),
                "authentication": {
                    "superuser": {"username": "postgres", "password": "x"},
                    "replication": {"username": "replicator", "password": "x"},
                },
                "pg_hba": ["local all all trust", *access],
                "parameters": {"unix_socket_directories": str(self.site.directory)},
            },
        }
        self.configuration(node).write_text(json.dumps(settings))

    def start(self, node: str) -> None:
        self.spawn(node, "patroni", self.configuration(node))

    def stop(self, node: str) -> None:
        """End Patroni, which shuts the server down."""
        self.processes[node].terminate()
        self.processes[node].wait(60)

    def kill(self, node: str) -> None:
        """End Patroni and its server as a failing machine would."""
        postmaster = int((self.data(node) / "postmaster.pid").read_text().splitlines()[0])
        self.processes[node].kill()
        self.processes[node].wait(60)
        psutil.Process(postmaster).kill()

    def all_run(self) -> bool:
        """Say what a program said that has ended by itself; Patroni's is what it lacks."""
        for name, process in self.processes.items():
            assert process.poll() is None, self.log(name).read_text()
        return True

    def control(self, *command: str) -> str:
        return self.site.tool("patronictl", "-c", self.configuration("one"), *command)

    def members(self) -> dict[str, str]:
        """Return what each node is, if it runs or streams."""
        try:
            listed = json.loads(self.control("list", "-f", "json"))
        except (AssertionError, json.JSONDecodeError):
            return {}
        good = [row for row in listed if row["State"] in ("running", "streaming")]
        return {row["Member"]: row["Role"] for row in good}

    def leader(self) -> str:
        return next((node for node, role in self.members().items() if role == "Leader"), "")

    def is_whole(self, leader: str = "") -> bool:
        """Whether one node leads, the one that is named if any, and the other streams."""
        members = self.members()
        if sorted(members.values()) != ["Leader", "Replica"]:
            return False
        (found,) = [node for node, role in members.items() if role == "Leader"]
        streaming = "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'"
        try:
            return found == (leader or found) and self.sql(found, streaming) == "1"
        except AssertionError:  # It has stopped meanwhile.
            return False

    def sql(self, node: str, statement: str) -> str:
        return self.site.sql(statement, self.ports[node], "127.0.0.1")

    def said_since(self, node: str, start: int) -> str:
        return self.log(node).read_bytes()[start:].decode()


@contextmanager
def started_pair(site: Site) -> Iterator[Pair]:
    client, peer, *others = free_ports(6)
    pair = Pair(
        site,
        (client, peer),
        dict(zip(NODES, others[:2], strict=True)),
        dict(zip(NODES, others[2:], strict=True)),
    )
    urls = [f"http://127.0.0.1:{port}" for port in pair.etcd]
    etcd = [
        *("etcd", "--name", "default", "--data-dir", site.directory / "etcd"),
        *("--listen-client-urls", urls[0], "--advertise-client-urls", urls[0]),
        *("--listen-peer-urls", urls[1], "--initial-advertise-peer-urls", urls[1]),
        *("--initial-cluster", f"default={urls[1]}", "--unsafe-no-fsync"),
    ]
    try:
        pair.spawn("etcd", *etcd)
        for node in NODES:
            pair.configure(node)
            pair.start(node)
        wait_for("both nodes", lambda: pair.all_run() and pair.is_whole(), 180)
        yield pair
    finally:
        for name, process in sorted(pair.processes.items(), reverse=True):
            process.kill()
            process.wait(60)
            assert name


@pytest.mark.slow
def test_switchover_stop_and_crash(site):
    require_tools("patroni", "patronictl", "etcd")
    with started_pair(site) as pair:
        first = pair.leader()
        (second,) = {*NODES} - {first}
        pair.sql(first, f"CREATE TABLE t AS SELECT '{TEXT}' FROM generate_series(1, 1000)")
        listing, switchover, reinit = (line.split()[1:] for line in commands("patroni.md", "Run"))
        names = {"one": first, "two": second}
        assert "Leader" in pair.control(*listing)
        pair.control(*(names.get(word, word) for word in switchover))
        wait_for("the switchover", lambda: pair.is_whole(second), 120)
        before_copy = pair.log(first).stat().st_size
        pair.control(*(names.get(word, word) for word in reinit))
        copied = "replica has been created"
        wait_for("the copy", lambda: copied in pair.said_since(first, before_copy), 120)
        wait_for("both nodes", lambda: pair.is_whole(second), 120)

        # Nodes that were shut down start again as what they were: nothing is rewound.
        before = {node: pair.log(node).stat().st_size for node in NODES}
        pair.stop(first)
        pair.stop(second)
        states = [site.programs.run("pg_controldata", pair.data(n)) for n in (first, second)]
        assert "shut down in recovery" in states[0]
        assert "shut down\n" in states[1]
        assert [site.state(pair.data(node)) for node in NODES] == ["in production"] * 2
        for node in (second, first):
            pair.start(node)
        wait_for("both nodes", lambda: pair.is_whole(second), 120)
        for node in NODES:
            said = pair.said_since(node, before[node])
            assert "crash recovery" not in said
            assert "pg_rewind" not in said

        # A leader that was killed is recovered in single-user mode, and rewound.
        before[second] = pair.log(second).stat().st_size
        pair.kill(second)
        wait_for("a new leader", lambda: pair.leader() == first, 120)
        # It leads before it has been promoted.
        wait_for("its promotion", lambda: pair.sql(first, "SELECT pg_is_in_recovery()") == "f")
        pair.sql(first, f"INSERT INTO t VALUES ('{TEXT}')")
        pair.start(second)
        wait_for("both nodes", lambda: pair.is_whole(first), 180)
        assert "crash recovery in a single user mode" in pair.said_since(second, before[second])
        rows = "SELECT count(*) FROM t"
        wait_for("replay", lambda: pair.sql(second, rows) == "1001")
        for node in (second, first):
            pair.stop(node)
        assert files_with(CANARY, *map(pair.data, NODES)) == []
        # Its own files are no secret, and no alarm.
        for node in NODES:
            audit = [TDE, "pg", "audit", "-D", pair.data(node), "--json"]
            done = subprocess.run(audit, capture_output=True, text=True, timeout=300)
            assert done.returncode == 0, done.stdout + done.stderr
            assert json.loads(done.stdout)["clean"]
