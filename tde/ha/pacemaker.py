"""The resources of a Pacemaker cluster for a synchronous pair, for crmsh and for pcs.

The set is that of the reference system's verification report (service and replication addresses
that follow the primary, a check of the network), with what was learnt since: fencing is asked for,
``stop_escalate`` leaves a primary the time to send what it has, and a node whose keystore does not
open is not promoted.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum
from importlib.resources import files
from ipaddress import IPv4Interface, IPv6Interface
from pathlib import Path

from tde.errors import PostgresError
from tde.postgres.server.owned_files import write_owned_file

_AGENT_DIRECTORY = Path("resource.d/tde")
_AGENT_NAME = "keystore"

Options = dict[str, str]


class Shell(str, Enum):
    """The program that takes the configuration."""

    CRMSH = "crmsh"
    PCS = "pcs"


@dataclass(frozen=True)
class Pair:
    """Two nodes, and what they have in common.

    Attributes:
        nodes: as Pacemaker calls them.
        service: the address that clients use, with its prefix length.
        replication: the address of the primary that the standby uses.
        service_nic: the network card of it, on both nodes; likewise ``replication_nic``.
        bin_directory: of tde pg install-bin, on both nodes.
        archive: a directory that both nodes read and write, of WAL.
        gateway: an address that a node with a network reaches.
        tde: the program, on both nodes.
        fencing: whether the cluster has it; then a node that cannot stop something is fenced.
    """

    nodes: tuple[str, ...]
    service: IPv4Interface | IPv6Interface
    replication: IPv4Interface | IPv6Interface
    service_nic: str
    replication_nic: str
    pgdata: Path
    bin_directory: Path
    keystore: Path
    archive: Path
    gateway: str
    repuser: str
    pgdba: str
    logfile: Path
    tde: Path
    fencing: bool = False


@dataclass(frozen=True)
class _Operation:
    name: str
    interval: str
    on_fail: str
    role: str = ""

    @property
    def options(self) -> Options:
        fixed = {"timeout": "60s", "interval": self.interval, "on-fail": self.on_fail}
        return {**fixed, **({"role": self.role} if self.role else {})}


@dataclass(frozen=True)
class _Primitive:
    name: str
    agent: str
    parameters: Options
    operations: tuple[_Operation, ...]
    meta: Options = field(default_factory=dict)


# Lines of the constraints are alike in nothing, so each shell has its own words for them.
_CRMSH_RULES = """\
group master-group vip-master vip-rep meta ordered=false {meta}
clone msPostgresql pgsql meta promotable=true promoted-max=1 promoted-node-max=1 clone-max={count} \
clone-node-max=1 notify=true {meta}
clone clnPing ping
clone clnKeystore tde-keystore
location not-without-network msPostgresql rule -inf: not_defined default_ping_set or \
default_ping_set lt 100
location not-without-keys msPostgresql rule $role=Promoted -inf: not_defined tde-keystore or \
tde-keystore lt 50
colocation with-network inf: msPostgresql clnPing
colocation addresses-with-primary inf: master-group msPostgresql:Promoted
order network-first 0: clnPing msPostgresql
order keystore-first 0: clnKeystore msPostgresql symmetrical=false
order addresses-after-promotion 0: msPostgresql:promote master-group:start symmetrical=false
order addresses-until-demotion 0: msPostgresql:demote master-group:stop symmetrical=false"""
# The primitives of these are made as clones at once: a plain pgsql would be a failure.
_CLONED = {
    "pgsql": "promotable msPostgresql promoted-max=1 promoted-node-max=1 clone-max={count} "
    "clone-node-max=1 notify=true {meta}",
    "ping": "clone clnPing",
    "tde-keystore": "clone clnKeystore",
}
_PCS_RULES = (
    "resource group add master-group vip-master vip-rep",
    "resource meta master-group ordered=false {meta}",
    "constraint location msPostgresql rule score=-INFINITY not_defined default_ping_set or "
    "default_ping_set lt 100",
    "constraint location msPostgresql rule role=Promoted score=-INFINITY not_defined tde-keystore "
    "or tde-keystore lt 50",
    "constraint colocation add msPostgresql with clnPing INFINITY",
    "constraint colocation add master-group with Promoted msPostgresql INFINITY",
    "constraint order clnPing then msPostgresql kind=Optional",
    "constraint order clnKeystore then msPostgresql kind=Optional symmetrical=false",
    "constraint order promote msPostgresql then start master-group kind=Optional symmetrical=false",
    "constraint order demote msPostgresql then stop master-group kind=Optional symmetrical=false",
)
# A server that has failed is not started again where it failed, and nothing moves back by itself.
_META = {"migration-threshold": "1", "resource-stickiness": "INFINITY"}
# What only looks is never stopped or banned for what it sees, or for a timeout.
_ONLY_LOOKS = {"migration-threshold": "0", "failure-timeout": "60s"}
_WITHOUT_FENCING = {"no-quorum-policy": "ignore", "stonith-enabled": "false"}
_FENCING = (
    "# Without fencing a node that hangs and comes back is a second primary for a moment, and of",
    "# two nodes that lose sight of each other both become one. docs/ha.md says what to do.",
)
_FILE = "tde-pair.cib"


def pacemaker_configuration(pair: Pair, shell: Shell) -> str:
    """Return the configuration of a pair, as lines for one of the two shells."""
    lines = list(_crmsh(pair) if shell is Shell.CRMSH else _pcs(pair))
    return "\n".join(lines) + "\n"


def _primitives(pair: Pair) -> tuple[_Primitive, ...]:
    def of_address(address: IPv4Interface | IPv6Interface, nic: str) -> Options:
        prefix = str(address.network.prefixlen)
        return {"ip": str(address.ip), "nic": nic, "cidr_netmask": prefix}

    return (
        _Primitive(
            "vip-master",
            "ocf:heartbeat:IPaddr2",
            of_address(pair.service, pair.service_nic),
            _operations(stop="fence" if pair.fencing else "block"),
        ),
        _Primitive(
            "vip-rep",
            "ocf:heartbeat:IPaddr2",
            of_address(pair.replication, pair.replication_nic),
            _operations(start="stop", stop="ignore"),
        ),
        _Primitive(
            "ping",
            "ocf:pacemaker:ping",
            {"name": "default_ping_set", "host_list": pair.gateway, "multiplier": "100"},
            _operations(stop="ignore"),
        ),
        _Primitive(
            "tde-keystore",
            "ocf:tde:keystore",
            {
                "pgdata": str(pair.pgdata),
                "keystore": str(pair.keystore),
                "bindir": str(pair.bin_directory),
                "pgdba": pair.pgdba,
                "tde": str(pair.tde),
            },
            _operations(stop="ignore", interval="30s", monitor="ignore"),
            _ONLY_LOOKS,
        ),
        _Primitive(
            "pgsql",
            "ocf:heartbeat:pgsql",
            _of_server(pair),
            _of_server_operations("fence" if pair.fencing else "block"),
        ),
    )


def _of_server(pair: Pair) -> Options:
    return {
        "pgctl": str(pair.bin_directory / "pg_ctl"),
        "psql": str(pair.bin_directory / "psql"),
        "pgdata": str(pair.pgdata),
        "pgdba": pair.pgdba,
        "logfile": str(pair.logfile),
        "rep_mode": "sync",
        "node_list": " ".join(pair.nodes),
        "repuser": pair.repuser,
        "master_ip": str(pair.replication.ip),
        "restore_command": f"cp {shlex.quote(str(pair.archive))}/%f %p",
        "primary_conninfo_opt": "keepalives_idle=60 keepalives_interval=5 keepalives_count=5",
        # 0 makes each demotion an immediate stop, which leaves WAL behind that the standby lacks.
        "stop_escalate": "20",
    }


def _operations(
    start: str = "restart", stop: str = "block", interval: str = "10s", monitor: str = "restart"
) -> tuple[_Operation, ...]:
    return (
        _Operation("start", "0s", start),
        _Operation("monitor", interval, monitor),
        _Operation("stop", "0s", stop),
    )


def _of_server_operations(stop: str) -> tuple[_Operation, ...]:
    return (
        _Operation("start", "0s", "restart"),
        _Operation("monitor", "4s", "restart"),
        _Operation("monitor", "3s", "restart", role="Promoted"),
        _Operation("promote", "0s", "restart"),
        _Operation("demote", "0s", "fence" if stop == "fence" else "stop"),
        _Operation("stop", "0s", stop),
        _Operation("notify", "0s", "restart"),
    )


def _crmsh(pair: Pair) -> Iterator[str]:
    yield "# crm configure load update FILE"
    if not pair.fencing:
        yield from _FENCING
        yield f"property {_words(_WITHOUT_FENCING)}"
    for one in _primitives(pair):
        yield f"primitive {one.name} {one.agent} \\"
        yield f"  params {_words(one.parameters)} \\"
        if one.meta:
            yield f"  meta {_words(one.meta)} \\"
        operations = [f"  op {each.name} {_words(each.options)}" for each in one.operations]
        yield " \\\n".join(operations)
    yield _CRMSH_RULES.format(count=len(pair.nodes), meta=_words(_META))


def _pcs(pair: Pair) -> Iterator[str]:
    """Yield commands that change a file, and the cluster in one step at their end."""
    yield "# sh FILE"
    yield "set -e"
    yield f"pcs cluster cib {_FILE}"
    lines = [] if pair.fencing else [f"property set {_words(_WITHOUT_FENCING)}"]
    for one in _primitives(pair):
        operations = " ".join(f"{each.name} {_words(each.options)}" for each in one.operations)
        meta = f" meta {_words(one.meta)}" if one.meta else ""
        cloned = f" {_CLONED[one.name]}" if one.name in _CLONED else ""
        create = f"resource create {one.name} {one.agent} {_words(one.parameters)} op {operations}"
        lines.append(create + meta + cloned)
    if not pair.fencing:
        yield from _FENCING
    for line in (*lines, *_PCS_RULES):
        filled = line.replace("{count}", str(len(pair.nodes))).replace("{meta}", _words(_META))
        yield f"pcs -f {_FILE} {filled}"
    yield f"pcs cluster cib-push {_FILE}"


def _words(options: Options) -> str:
    """Return options as both shells take them: a value with blanks stands in double quotes."""
    return " ".join(
        f'{name}="{value}"' if any(one in value for one in " %'\\") else f"{name}={value}"
        for name, value in options.items()
    )


def install_agent(ocf_root: Path, tde: Path) -> Path:
    """Put the agent ``ocf:tde:keystore`` where Pacemaker looks for it, and return its path.

    Args:
        ocf_root: usually /usr/lib/ocf.
        tde: the program that it runs unless its parameter names another.

    Raises:
        PostgresError: there is no such directory, as where resource-agents is not installed.
        OSError: it cannot be written.
    """
    if not (ocf_root / "lib" / "heartbeat" / "ocf-shellfuncs").is_file():
        raise PostgresError(
            f"{ocf_root} has no lib/heartbeat/ocf-shellfuncs, which agents stand on",
            remedy="Install resource-agents, or name its directory with --ocf-root.",
        )
    directory = ocf_root / _AGENT_DIRECTORY
    directory.mkdir(mode=0o755, parents=True, exist_ok=True)
    text = (files("tde.ha") / "agent.sh").read_text(encoding="utf-8")
    path = directory / _AGENT_NAME
    write_owned_file(path, text.replace("@TDE@", str(tde)), None, mode=0o755)
    return path
