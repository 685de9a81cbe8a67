"""Clusters of Debian's postgresql-common in directories of a test."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tde.postgres.server.os_user import OsUser


@dataclass(frozen=True)
class Site:
    """Where the clusters of one test are, and who owns them.

    Attributes:
        root: with the directories `etc` (PG_CLUSTER_CONF_ROOT), `data` and `sockets`.
    """

    root: Path
    os_user: OsUser | None

    @classmethod
    def make(cls, root: Path, os_user: OsUser | None) -> Site:
        for name in ("etc", "data", "sockets"):
            (root / name).mkdir()
            if os_user is not None:
                os.chown(root / name, os_user.uid, os_user.gid)
        return cls(root, os_user)

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "PG_CLUSTER_CONF_ROOT": str(self.root / "etc"), "LC_ALL": "C.UTF-8"}

    def run(self, *command: object, exit_code: int | None = 0, text: str = "") -> str:
        """Run a program of postgresql-common, as the caller, and return what it says."""
        result = subprocess.run(
            [str(word) for word in command],
            env=self.environment,
            input=text,
            capture_output=True,
            text=True,
            timeout=240,
            cwd="/",
        )
        output = result.stdout + result.stderr
        assert exit_code in (None, result.returncode), output
        return output

    def data(self, name: str) -> Path:
        return self.root / "data" / name

    def create(self, major: int, name: str, *options: object) -> Path:
        """Make a cluster with pg_createcluster, and return its data directory."""
        owner = () if self.os_user is None else ("-u", self.os_user.name)
        self.run(
            *("pg_createcluster", *owner, "-d", self.data(name), "-l", self.root / f"{name}.log"),
            *("-s", self.root / "sockets", "-p", "5432", *options, major, name),
            *("--", "--no-sync", "-k"),
        )
        with (self.root / "etc" / str(major) / name / "postgresql.conf").open("a") as file:
            file.write("listen_addresses = ''\nfsync = off\nshared_buffers = 16MB\n")
        return self.data(name)

    def control(self, major: int, name: str, verb: str, exit_code: int = 0) -> str:
        return self.run("pg_ctlcluster", major, name, verb, exit_code=exit_code)

    def listed(self) -> dict[str, str]:
        """Return the state of each cluster, as pg_lsclusters shows it."""
        lines = self.run("pg_lsclusters", "-h").splitlines()
        return {"/".join(line.split()[:2]): line.split()[3] for line in lines}


def is_installed() -> bool:
    return shutil.which("pg_createcluster") is not None
