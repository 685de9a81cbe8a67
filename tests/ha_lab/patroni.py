"""The pair under Patroni with etcd, configured by what ``tde ha configure`` prints."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from dataclasses import dataclass
from typing import Any

from tests.ha_lab.lab import HOME, REPLICATION, Mode, in_switch, run, wait_until
from tests.ha_lab.node import PGDATA, Node
from tests.ha_lab.server import KEYSTORE, TDE, Servers

_ETCD = f"{REPLICATION}.254:2379"
_CONFIGURATION = HOME / "patroni.yml"


@dataclass
class Patroni:
    """The cluster of two nodes, and the etcd that it needs."""

    servers: Servers
    etcd: subprocess.Popen[bytes] | None = None

    @property
    def nodes(self) -> tuple[Node, Node]:
        """Both nodes."""
        return self.servers.nodes

    @property
    def address(self) -> str:
        """Where clients look for the primary: libpq tries both."""
        return ",".join(f"{REPLICATION}.{node.number}" for node in self.nodes)

    def build(self) -> None:
        """Go from two nodes that are up to a synchronous pair."""
        self.servers.prepare()
        self._start_etcd()
        for node in self.nodes:
            node.write(_CONFIGURATION, self.configuration(node), user="postgres")
            node.shell(f"chmod 600 {_CONFIGURATION}")
            self.join(node)
        self.wait_until_whole()

    def stop(self) -> None:
        """End etcd; the nodes are powered off by whoever has made them."""
        if self.etcd is not None:
            self.etcd.terminate()
            self.etcd.wait()

    def join(self, node: Node) -> None:
        """Start Patroni on a node that has booted."""
        node.spawn("patroni", _CONFIGURATION, user="postgres", log=f"patroni-{node.name}.log")

    def configuration(self, node: Node) -> str:
        """Return what tde prints, with everybody let in; for stock servers without the checks."""
        text = run(
            *(TDE, "ha", "configure", "patroni", "--scope", "lab", "--name", node.name),
            *("--address", f"{REPLICATION}.{node.number}", "--etcd", _ETCD),
            *("--network", "10.77.0.0/22", "-D", PGDATA, "-k", KEYSTORE),
            *("--bin", self.servers.bin_directory),
        )
        text = text.replace("scram-sha-256", "trust").replace("CHANGE", "x")
        if self.servers.mode is Mode.STOCK:
            text = re.sub(r"  pre_promote: .*\n", "", text)
            text = re.sub(r"  callbacks:\n(    .*\n)*", "", text)
        return text + "\n"

    def members(self) -> list[dict[str, Any]]:
        """Return what patronictl lists; nothing when it cannot."""
        for node in self.nodes:
            if node.is_up:
                words = ("patronictl", "-c", _CONFIGURATION, "list", "-f", "json")
                try:
                    found: list[dict[str, Any]] = json.loads(node.run(*words, check=False))
                except json.JSONDecodeError:
                    continue
                return found
        return []

    def primary(self) -> Node | None:
        """Return the leader's node."""
        for one in self.members():
            if one["Role"] == "Leader":
                return next(node for node in self.nodes if node.name == one["Member"])
        return None

    def switch(self) -> None:
        """Change the roles."""
        primary = self.primary()
        assert primary is not None
        primary.run(
            *("patronictl", "-c", _CONFIGURATION, "switchover", "--leader", primary.name),
            *("--candidate", primary.other.name, "--force"),
        )

    def wait_until_whole(self) -> None:
        """Wait until one leads and the other is synchronous."""
        wait_until(
            lambda: sorted(one["Role"] for one in self.members()) == ["Leader", "Sync Standby"],
            120,
            "a leader and a synchronous standby",
        )

    def _start_etcd(self) -> None:
        lab = self.servers.lab
        program = shutil.which("etcd") or lab.layer / "usr" / "up" / "bin" / "etcd"
        data = lab.directory / "etcd"
        shutil.rmtree(data, ignore_errors=True)
        local, peers = "http://127.0.0.1:2379", "http://127.0.0.1:2380"
        words = [
            *(str(program), "--data-dir", str(data), "--listen-peer-urls", peers),
            *("--listen-client-urls", f"http://{_ETCD},{local}"),
            *("--advertise-client-urls", f"http://{_ETCD}"),
        ]
        with lab.log("etcd.log").open("ab") as log:
            self.etcd = subprocess.Popen(
                in_switch(*words), stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
