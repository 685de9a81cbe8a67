"""Two nodes of a pair on one machine, driven by the command line alone, and what was typed.

A node is a mount namespace, because both must see their own directory at the same place: the
location of a tablespace is the same on every node of a replication.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tde.postgres import OsUser

TDE = Path(sys.executable).with_name("tde")
PATIENCE = 300  # Seconds that one command may take, on a machine that does something else as well.
_MOUNT = 'mount --bind "$0" "$1" && echo ready && exec sleep infinity'


def write_secret(path: Path, content: str) -> None:
    """Write a file that only its owner may read."""
    path.unlink(missing_ok=True)
    path.touch(mode=0o600)
    path.write_text(content)


@dataclass
class Transcript:
    """What was typed, and what it printed, with the directories of the test taken out."""

    directory: Path
    lines: list[str] = field(default_factory=list)

    def heading(self, text: str) -> None:
        self.lines += ["", f"## {text}", ""]

    def say(self, text: str) -> None:
        self.lines += [text, ""]

    def command(self, node: str, words: Sequence[object], output: str) -> None:
        shown = " ".join(shlex.quote(str(word)) for word in words)
        text = f"{node}$ {shown}\n{output.strip()}".strip()
        text = text.replace(str(self.directory), "/srv")
        self.lines += [*(f"    {line}".rstrip() for line in text.splitlines()), ""]

    def write(self, path: Path, title: str) -> None:
        path.write_text("\n".join([f"# {title}", *self.lines]).rstrip() + "\n")


class Node:
    """One node: a data directory, its own copy of the keystore, its own tablespaces.

    Args:
        spaces: where both nodes see their tablespaces.
        bindir: of PostgreSQL.
    """

    def __init__(
        self,
        name: str,
        directory: Path,
        spaces: Path,
        os_user: OsUser | None,
        bindir: Path,
        log: Transcript,
    ) -> None:
        self.name = name
        self.bindir = bindir
        self.data = directory / name
        self.keystore = directory / f"keystore-{name}"
        self.passphrase = directory / f"passphrase-{name}"
        self.os_user = os_user
        self._log = log
        own = directory / f"spaces-{name}"
        self.make_directory(own)
        self._mounted = subprocess.Popen(
            ["unshare", "--mount", "sh", "-c", _MOUNT, str(own), str(spaces)],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._mounted.stdout is not None
        assert self._mounted.stdout.readline() == "ready\n"

    def close(self) -> None:
        """End the namespace, after its servers."""
        subprocess.run([*self._enter(), TDE, "pg", "stop", "-D", self.data, "-m", "immediate"])
        self._mounted.kill()
        self._mounted.wait()

    def make_directory(self, path: Path) -> Path:
        path.mkdir(mode=0o700)
        if self.os_user is not None:
            os.chown(path, self.os_user.uid, self.os_user.gid)
        return path

    def make_space(self, path: Path) -> None:
        """Make the directory of a tablespace, as a DBA does on a standby."""
        self.shell("install", "-d", "-m", "0700", *self._owner(), path)

    def _owner(self) -> list[str]:
        return [] if self.os_user is None else ["-o", self.os_user.name]

    def _enter(self) -> list[str]:
        return ["nsenter", f"--mount=/proc/{self._mounted.pid}/ns/mnt", "--wd=/"]

    def tde(self, *words: object, exit_code: int = 0, shown: bool = True) -> str:
        """Run a command of tde on this node, and return what it printed."""
        return self._run([str(TDE)], ["tde"], words, exit_code, shown)

    def shell(self, *words: object) -> str:
        """Run another program on this node."""
        return self._run([], [], words, 0, False)

    def _run(
        self,
        program: Sequence[str],
        name: Sequence[str],
        words: Sequence[object],
        exit_code: int,
        shown: bool,
    ) -> str:
        done = subprocess.run(
            [*self._enter(), *program, *map(str, words)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=PATIENCE,
            env={**os.environ, "COLUMNS": "110"},
        )
        if shown:
            self._log.command(self.name, [*name, *words], done.stdout)
        assert done.returncode == exit_code, f"{self.name}: {words}: {done.stdout}"
        return done.stdout

    def key_command(self, *words: object, **options: bool | int) -> str:
        """Run a command of tde that opens the keystore of this node."""
        # What is behind "--" belongs to another program.
        at = words.index("--") if "--" in words else len(words)
        given = (*words[:at], "--passphrase-file", self.passphrase, *words[at:])
        return self.tde(*given, **options)  # type: ignore[arg-type]

    def sql(self, statement: str, *, exit_code: int = 0, shown: bool = False) -> str:
        """Run a statement, and return its rows as psql prints them without decoration."""
        options = ("-X", "-A", "-t", "-c")
        words = ("psql", "-D", self.data, "--", *options, statement)
        return self.tde(*words, exit_code=exit_code, shown=shown).strip()

    def exec(self, *words: object, shown: bool = True) -> str:
        """Run a program of PostgreSQL that gets the keys."""
        where = ("-D", self.data, "--passphrase-file", self.passphrase)
        return self.tde("pg", "exec", *where, *words, shown=shown)

    def connection(self) -> list[str]:
        """Return the options with which PostgreSQL's programs connect to this node."""
        host, port, user = self.sql(
            "SELECT concat_ws(' ', current_setting('unix_socket_directories'), "
            "current_setting('port'), current_user)"
        ).split()
        return ["-h", host, "-p", port, "-U", user]

    def pgbench(self, *words: object) -> str:
        return self.shell(self.bindir / "pgbench", *self.connection(), *words, "postgres")


class Load(threading.Thread):
    """Runs pgbench on a node, a few seconds at a time, until it is told to stop."""

    def __init__(self, node: Node) -> None:
        super().__init__(daemon=True, name=f"load of {node.name}")
        self.node = node
        self.transactions = 0
        self.problems: list[str] = []
        self._ends = threading.Event()

    def run(self) -> None:
        while not self._ends.is_set() and not self.problems:
            try:
                self._count(self.node.pgbench("-n", "-c", 4, "-j", 2, "-T", 3))
            except Exception as error:
                self.problems.append(repr(error))

    def _count(self, output: str) -> None:
        said = dict(line.split(": ", 1) for line in output.splitlines() if ": " in line)
        self.transactions += int(said["number of transactions actually processed"])
        failed = said["number of failed transactions"]
        if not failed.startswith("0 "):
            self.problems.append(output)

    def finish(self) -> int:
        """End it, expect that no transaction has failed, and return how many there were."""
        self._ends.set()
        self.join(PATIENCE)
        assert self.problems == []
        assert self.transactions > 0
        return self.transactions
