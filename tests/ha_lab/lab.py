"""Where the lab is, its network, and commands that run in it."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
NODES = ("n1", "n2")
# Only inside the lab's network namespaces: no address of it is the machine's.
SERVICE, REPLICATION, HEARTBEAT = "10.77.0", "10.77.1", "10.77.2"
NETWORKS = {"svc": SERVICE, "rep": REPLICATION, "hb": HEARTBEAT}
GATEWAY = f"{HEARTBEAT}.254"
SERVICE_ADDRESS, REPLICATION_ADDRESS = f"{SERVICE}.100", f"{REPLICATION}.100"
SWITCH = "tde-ha-switch"
HOME = Path("/var/lib/pgsql")
"""Of the server's user in a node: a directory of the lab, on a real file system."""

PACKAGES = (
    *("corosync", "pacemaker", "pacemaker-cli-utils", "resource-agents", "crmsh"),
    *("iproute2", "iputils-ping", "procps", "patroni", "etcd-server"),
)


class Mode(str, Enum):
    """Of a run."""

    STOCK = "stock"
    ENCRYPTED = "encrypted"


@dataclass(frozen=True)
class Lab:
    """One lab.

    Attributes:
        directory: of everything that it writes, on a real file system.
        stock: PostgreSQL's own programs.
    """

    directory: Path
    stock: Path

    @property
    def layer(self) -> Path:
        """The packages, as an overlay over the host's."""
        return self.directory / "layer"

    def log(self, name: str) -> Path:
        """Return the path of a log, whose directory exists."""
        path = self.directory / "logs" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path


def missing_programs() -> list[str]:
    """Return what the host needs for namespaces and is not there."""
    return [one for one in ("ip", "unshare", "nsenter", "pivot_root") if shutil.which(one) is None]


def run(*command: object, check: bool = True, timeout: float = 120) -> str:
    """Run a program, and return what it has printed."""
    done = subprocess.run(
        [str(word) for word in command],
        capture_output=True,
        text=True,
        check=False,
        timeout=timeout,
        stdin=subprocess.DEVNULL,
    )
    if check and done.returncode != 0:
        raise RuntimeError(f"{command} ended with {done.returncode}: {done.stdout}{done.stderr}")
    return done.stdout.strip()


def in_switch(*command: object) -> list[str]:
    """Return a command that runs where clients, the gateway and etcd are."""
    return ["ip", "netns", "exec", SWITCH, *map(str, command)]


def wait_until(condition: Callable[[], object], seconds: float, what: str) -> float:
    """Wait until something is true, and return the seconds that it took."""
    begin = time.monotonic()
    while not condition():
        if time.monotonic() - begin > seconds:
            raise TimeoutError(f"{what}: not within {seconds:.0f} s")
        time.sleep(0.2)
    return time.monotonic() - begin


def make_network() -> None:
    """Make a namespace that is switch, client and gateway, with a bridge for each network."""
    run("ip", "netns", "add", SWITCH)
    run(*in_switch("ip", "link", "set", "lo", "up"))
    for name, network in NETWORKS.items():
        bridge = f"br-{name}"
        run(*in_switch("ip", "link", "add", bridge, "type", "bridge", "forward_delay", "0"))
        run(*in_switch("ip", "addr", "add", f"{network}.254/24", "dev", bridge))
        run(*in_switch("ip", "link", "set", bridge, "up"))


def remove_network() -> None:
    """Take it away again; what is not there does no harm."""
    run("ip", "netns", "del", SWITCH, check=False)


def make_layer(lab: Lab) -> None:
    """Install the packages into a layer of the lab; the host's own packages are untouched."""
    if (lab.layer / "usr" / "up" / "sbin" / "pacemakerd").exists():
        return
    command = [sys.executable, "-m", "tests.ha_lab.install", str(lab.directory)]
    run("unshare", "-m", "--propagation", "private", *command, timeout=1200)
