"""The pair under Corosync and Pacemaker, configured by what ``tde ha configure`` prints."""

from __future__ import annotations

import re
from dataclasses import dataclass

from tests.ha_lab.lab import (
    GATEWAY,
    HEARTBEAT,
    NODES,
    REPLICATION,
    REPLICATION_ADDRESS,
    SERVICE_ADDRESS,
    Mode,
    run,
    wait_until,
)
from tests.ha_lab.node import PGDATA, Node
from tests.ha_lab.server import ARCHIVE, KEYSTORE, LOGS, TDE, Servers

RESOURCE = "msPostgresql"
ATTRIBUTE = "tde-keystore"
_LOCK = PGDATA.parent / "tmp" / "PGSQL.lock"
_COROSYNC = """\
totem {{
    version: 2
    cluster_name: lab
    transport: knet
    crypto_cipher: none
    crypto_hash: none
    token: 3000
}}
nodelist {{
{nodes}}}
quorum {{
    provider: corosync_votequorum
    two_node: 1
    wait_for_all: 0
}}
logging {{
    to_logfile: yes
    logfile: /var/log/corosync/corosync.log
    to_syslog: no
    timestamp: on
}}
"""
_NODE = """\
    node {{
        ring0_addr: {}
        ring1_addr: {}
        name: {}
        nodeid: {}
    }}
"""
_START = """\
mkdir -p /var/log/corosync /var/log/pacemaker /var/lib/corosync
chown hacluster:haclient /var/log/pacemaker
corosync || exit 1
for i in $(seq 50); do corosync-cfgtool -s >/dev/null 2>&1 && break; sleep 0.1; done
"""
_PACEMAKER = {
    "PCMK_logfile": "/var/log/pacemaker/pacemaker.log",
    "PCMK_logfacility": "none",
    "PCMK_ipc_type": "shared-mem",
}


@dataclass(frozen=True)
class Pacemaker:
    """The cluster of two nodes."""

    servers: Servers

    @property
    def nodes(self) -> tuple[Node, Node]:
        """Both nodes."""
        return self.servers.nodes

    def build(self) -> None:
        """Go from two nodes that are up to a synchronous pair."""
        first, second = self.nodes
        self.servers.prepare()
        self.servers.make_primary()
        for node in self.nodes:
            self.join(node)
        wait_until(lambda: "Online: [ n1 n2 ]" in self._monitor(first), 60, "both nodes online")
        first.run("crm", "node", "standby", second.name)
        path = self.servers.lab.directory / "pair.crm"
        path.write_text(self.configuration())
        first.run("crm", "-F", "configure", "load", "update", path)
        wait_until(lambda: self.state(first, first) == "PRI", 90, "the primary")
        self.rejoin(second, "base backup")

    def configuration(self) -> str:
        """Return what tde prints; for stock servers without what is about keystores."""
        pair = [word for name in NODES for word in ("--node", name)]
        text = run(
            *(TDE, "ha", "configure", "pacemaker", *pair, "-D", PGDATA, "-k", KEYSTORE),
            *("--bin", self.servers.bin_directory, "--archive", ARCHIVE, "--repuser", "postgres"),
            *("--service", f"{SERVICE_ADDRESS}/24", "--replication", f"{REPLICATION_ADDRESS}/24"),
            *("--gateway", GATEWAY, "--logfile", LOGS / "server.log"),
        )
        if self.servers.mode is Mode.ENCRYPTED:
            return text + "\n"
        text = re.sub(r"primitive tde-keystore(?:.*\\\n)*.*\n", "", text)
        about_keys = re.compile("eystore|not-without-keys")
        lines = [line for line in text.splitlines() if not about_keys.search(line)]
        return "\n".join(lines) + "\n"

    def join(self, node: Node) -> None:
        """Start Corosync and Pacemaker on a node that has booted."""
        lines = [
            _NODE.format(f"{HEARTBEAT}.{11 + i}", f"{REPLICATION}.{11 + i}", name, i + 1)
            for i, name in enumerate(NODES)
        ]
        node.write(PGDATA.parent / "corosync.conf", _COROSYNC.format(nodes="".join(lines)))
        node.shell(f"cp {PGDATA.parent}/corosync.conf /etc/corosync/corosync.conf")
        if self.servers.mode is Mode.ENCRYPTED:
            node.run(TDE, "ha", "install-agent")
        node.shell(_START)
        variables = [f"{name}={value}" for name, value in _PACEMAKER.items()]
        node.spawn("env", *variables, "pacemakerd", log=f"pacemaker-{node.name}.log")

    def state(self, asked: Node, of: Node) -> str:
        """Return what the agent says of a server: PRI, HS:sync, ..."""
        words = ("crm_attribute", "-l", "reboot", "-N", of.name, "-n", "pgsql-status", "-G", "-q")
        return asked.run(*words, check=False)

    def score(self, asked: Node, of: Node) -> str:
        """Return the score of a node's keystore; empty when there is none."""
        words = ("attrd_updater", "-n", ATTRIBUTE, "-Q", "-N", of.name)
        found = re.search(r'value="(\d+)"', asked.run(*words, check=False))
        return "" if found is None else found[1]

    def primary(self) -> Node | None:
        """Return the node whose server is promoted."""
        for node in self.nodes:
            if node.is_up:
                found = re.search(r"Promoted: \[ (\w+) \]", self._monitor(node))
                if found is not None:
                    return Node(node.lab, found[1])
        return None

    def rejoin(self, node: Node, how: str) -> None:
        """Make a node the standby of the primary again, as docs/ha.md says."""
        node.run("crm", "node", "standby", node.name, check=False)
        wait_until(lambda: not self.runs_on(node), 60, f"no server on {node.name}")
        node.run("rm", "-f", _LOCK)
        if how == "base backup":
            self.servers.take_base_backup(node, REPLICATION_ADDRESS)
        elif how == "rewind":
            self.servers.rewind(node, REPLICATION_ADDRESS)
        node.run("crm", "resource", "cleanup", RESOURCE, check=False)
        node.run("crm", "node", "online", node.name, check=False)
        wait_until(lambda: self.state(node, node) == "HS:sync", 90, f"{node.name} in sync")

    def has_joined(self, node: Node) -> bool:
        """Whether a node that has booted is in the cluster, in standby or not."""
        found = rf"Online: \[.*\b{node.name}\b|Node {node.name}: standby"
        return bool(re.search(found, self._monitor(node)))

    def runs_on(self, node: Node) -> bool:
        """Whether a server runs there, for Pacemaker or at all."""
        listed = node.run("crm_resource", "-r", RESOURCE, "-W", check=False)
        if re.search(rf"\b{node.name}\b", listed):
            return True
        alive = f"kill -0 $(head -1 {PGDATA}/postmaster.pid) 2>/dev/null && echo alive"
        return node.shell(alive, check=False) == "alive"

    def _monitor(self, node: Node) -> str:
        return node.run("crm_mon", "-1", check=False)
