"""The first process of a node: it makes the node's root, and reaps what is left to it."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import socket
import sys
import time
from pathlib import Path

from tests.ha_lab.lab import HEARTBEAT, HOME, NODES, REPOSITORY, Lab
from tests.ha_lab.root import bind, make_root, pivot


def main() -> None:
    """Become the node whose name is the second argument, in the lab of the first."""
    lab, name = Lab(Path(sys.argv[1]), Path()), sys.argv[2]
    # /proc is still that of the host, so this is the process id there.
    pid = Path("/proc/self").resolve().name
    own = lab.directory / "nodes" / name
    root = own / "root"
    socket.sethostname(name)
    make_root(root, own / "overlay", lab.layer)
    for path in (lab.directory, REPOSITORY):
        bind(path, root)
    bind(own / "home", root, HOME)
    _write_identity(root, name)
    for directory in ("postgresql", "resource-agents", "crm", "heartbeat/rsctmp"):
        (root / "run" / directory).mkdir(parents=True, exist_ok=True)
    _give(root / "run" / "postgresql", "postgres", "postgres", 0o2775)
    _give(root / "run" / "crm", "hacluster", "haclient", 0o750)
    pivot(root)
    (own / "pid").write_text(pid)
    # A zombie that nobody reaps looks alive to agents, which ask with kill -0.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        time.sleep(3600)


def _write_identity(root: Path, name: str) -> None:
    lines = ["127.0.0.1 localhost"]
    lines += [f"{HEARTBEAT}.{11 + number} {node}" for number, node in enumerate(NODES)]
    (root / "etc" / "hosts").write_text("\n".join(lines) + "\n")
    (root / "etc" / "hostname").write_text(f"{name}\n")
    (root / "etc" / "machine-id").unlink(missing_ok=True)
    identity = hashlib.md5(name.encode(), usedforsecurity=False).hexdigest()
    (root / "etc" / "machine-id").write_text(f"{identity}\n")


def _give(path: Path, user: str, group: str, mode: int) -> None:
    """Give a directory to users of the lab's layer, whom the host may not know."""
    passwd = _numbers(path, "etc/passwd")
    groups = _numbers(path, "etc/group")
    os.chown(path, passwd[user], groups[group])
    path.chmod(mode)


def _numbers(inside: Path, file: str) -> dict[str, int]:
    root = next(parent for parent in inside.parents if (parent / file).exists())
    lines = (root / file).read_text().splitlines()
    return {line.split(":")[0]: int(line.split(":")[2]) for line in lines if line.count(":") > 1}


if __name__ == "__main__":
    # What is imported later would be looked for in the node's root.
    assert shutil
    main()
