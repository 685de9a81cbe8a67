"""A node: namespaces of its own for network, processes, mounts and names; and its plug."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.ha_lab.lab import (
    HOME,
    NETWORKS,
    NODES,
    REPOSITORY,
    Lab,
    in_switch,
    run,
    wait_until,
)

PGDATA = HOME / "data"
_UNSHARE = ("--mount", "--uts", "--ipc", "--pid", "--fork", "--kill-child=SIGKILL")


@dataclass(frozen=True)
class Node:
    """One of the two machines."""

    lab: Lab
    name: str

    @property
    def other(self) -> Node:
        """The other machine."""
        return Node(self.lab, next(name for name in NODES if name != self.name))

    @property
    def number(self) -> int:
        """The last part of its addresses."""
        return 11 + NODES.index(self.name)

    @property
    def home(self) -> Path:
        """What its HOME is on the host."""
        return self.lab.directory / "nodes" / self.name / "home"

    @property
    def is_up(self) -> bool:
        """Whether its power is on."""
        return self._pid_file.exists()

    @property
    def _namespace(self) -> str:
        return f"tde-ha-{self.name}"

    @property
    def _pid_file(self) -> Path:
        return self.lab.directory / "nodes" / self.name / "pid"

    def power_on(self) -> None:
        """Boot it; what was on its disk is there."""
        self._connect()
        self.home.mkdir(parents=True, exist_ok=True)
        self._pid_file.unlink(missing_ok=True)
        command = ["nsenter", f"--net=/run/netns/{self._namespace}", "unshare", *_UNSHARE]
        command += ["--propagation", "private", sys.executable, "-m", "tests.ha_lab.node_init"]
        with self.lab.log(f"{self.name}.log").open("ab") as log:
            subprocess.Popen(
                ["setsid", *command, str(self.lab.directory), self.name],
                cwd=REPOSITORY,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        wait_until(lambda: self._pid_file.exists() and self._pid_file.read_text(), 20, self.name)

    def power_off(self) -> None:
        """Pull the plug. Its addresses go too, which a dead node would go on answering for."""
        for network in NETWORKS:
            run(*in_switch("ip", "link", "del", f"{self.name}-{network}"), check=False)
        if self.is_up:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(self._pid_file.read_text()), signal.SIGKILL)
            self._pid_file.unlink()
        run("ip", "netns", "del", self._namespace, check=False)

    def cut(self, network: str, *, is_cut: bool) -> None:
        """Take one of its cables out, or put it back."""
        state = "down" if is_cut else "up"
        run(*in_switch("ip", "link", "set", f"{self.name}-{network}", state))

    def command(self, *words: object, user: str = "root") -> list[str]:
        """Return a command that runs in it."""
        inside = ["nsenter", "-t", self._pid_file.read_text().strip(), "-m", "-u", "-i", "-n", "-p"]
        as_user = [] if user == "root" else ["runuser", "-u", user, "--"]
        return [*inside, "--", *as_user, *map(str, words)]

    def run(self, *words: object, user: str = "root", check: bool = True) -> str:
        """Run a program in it, and return what it has printed."""
        return run(*self.command(*words, user=user), check=check)

    def shell(self, text: str, *, user: str = "root", check: bool = True) -> str:
        """Run a line of sh in it."""
        return self.run("sh", "-c", text, user=user, check=check)

    def spawn(self, *words: object, log: str, user: str = "root") -> None:
        """Start a program in it that goes on."""
        with self.lab.log(log).open("ab") as file:
            subprocess.Popen(
                ["setsid", *self.command(*words, user=user)],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
            )

    def query(self, statement: str) -> str:
        """Ask its own server, over its own socket; empty when there is no answer."""
        psql = self.lab.stock / "psql"
        words = (psql, "-U", "postgres", "-d", "postgres", "-qAtX", "-c", statement)
        return self.run("timeout", "10", *words, user="postgres", check=False)

    def write(self, path: Path, text: str, *, user: str = "root", append: bool = False) -> None:
        """Write a file in it."""
        sign = ">>" if append else ">"
        line = f"printf %s {shlex.quote(text)} {sign} {shlex.quote(str(path))}"
        self.shell(line, user=user)

    def kill_server(self, data: Path = PGDATA) -> None:
        """Kill the postmaster as the kernel would when memory is short."""
        self.shell(f"kill -9 $(head -1 {data}/postmaster.pid)")

    def _connect(self) -> None:
        if Path("/run/netns", self._namespace).exists():
            return
        run("ip", "netns", "add", self._namespace)
        inside = ("ip", "netns", "exec", self._namespace, "ip")
        run(*inside, "link", "set", "lo", "up")
        for number, (name, network) in enumerate(NETWORKS.items()):
            port, card = f"{self.name}-{name}", f"eth{number}"
            run(
                *in_switch("ip", "link", "add", port, "type", "veth"),
                *("peer", "name", card, "netns", self._namespace),
            )
            run(*in_switch("ip", "link", "set", port, "master", f"br-{name}", "up"))
            run(*inside, "addr", "add", f"{network}.{self.number}/24", "brd", "+", "dev", card)
            run(*inside, "link", "set", card, "up")


def power_off_all(lab: Lab) -> None:
    """End all nodes, whatever is left of them."""
    for name in NODES:
        Node(lab, name).power_off()
