"""Jobs as they lie on the disk, and starting one."""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from tde.errors import TdeError
from tde.file_lock import lock_until
from tde.manager.registry import Server
from tde.postgres.server.owned_files import write_owned_file

SPECIFICATION, OUTPUT, PROGRESS = "job.json", "output", "progress.json"
ENDED, CANCEL = "ended.json", "cancel"
READY = b"."
"""What the process of a job says once nobody can look into it."""
PASSPHRASE_OPTION = "--passphrase-fd=0"
"""What tells a command that its passphrase comes; a job with it gets one."""

# Microseconds since 1970: jobs of a server begin one after the other.
_ID = re.compile(r"[0-9]{16}-[0-9a-f]{8}")
_LONGEST_OUTPUT = 64 << 10  # Bytes that a page shows.
_PATIENCE = 5.0  # Seconds.
_MOST = 200  # Jobs that are kept.


class State(str, Enum):
    """What has become of a job."""

    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"
    LOST = "lost"
    """Its process was killed, and has not said how it ended."""


@dataclass(frozen=True)
class Job:
    """One job.

    Attributes:
        server: the id of its server.
        what: the name of what it does, which pages translate.
        steps: the commands, with their arguments.
        began, ended: in seconds since 1970.
        code: the exit code of the command that was the last one.
        progress: what the command says of itself: ``description``, ``completed``, ``total``,
            ``per_second``.
    """

    id: str
    server: str
    what: str
    steps: tuple[tuple[str, ...], ...]
    state: State
    began: float
    ended: float | None
    code: int | None
    progress: dict[str, Any]

    @property
    def fraction(self) -> float | None:
        """How much is done, where that is known."""
        total, done = self.progress.get("total"), self.progress.get("completed")
        return min(done / total, 1.0) if total and done is not None else None

    @property
    def seconds_left(self) -> float | None:
        """How long it will take yet, at its speed."""
        total, done = self.progress.get("total"), self.progress.get("completed")
        speed = self.progress.get("per_second")
        return (total - done) / speed if total and done is not None and speed else None


class JobRunsError(TdeError):
    """Another job works on that server."""


class Jobs:
    """The jobs of a manager's directory."""

    def __init__(self, directory: Path) -> None:
        self._jobs = directory / "jobs"
        self._locks = directory / "locks"

    def start(
        self,
        server: Server,
        what: str,
        steps: Sequence[Sequence[str]],
        passphrase: bytearray | None = None,
        *,
        role: str,
    ) -> str:
        """Start a job, and return its id.

        Args:
            role: of who wants it, for the key log.
            passphrase: for each step with :data:`PASSPHRASE_OPTION`; it is not kept here.

        Raises:
            JobRunsError: another job works on that server.
            OSError: it cannot be started.
        """
        # One that has said how it ended has the lock for a moment yet.
        key = _key_of(server.data_directory)
        lock = self._lock(key, 0.0 if self.running(server.id) else _PATIENCE)
        try:
            job_id = self._next_id()
            directory = self._jobs / job_id
            directory.mkdir(mode=0o700)
            specification: dict[str, Any] = {"server": server.id, "what": what, "role": role}
            specification["lock"] = key
            specification |= {"steps": [list(step) for step in steps]}
            write_owned_file(directory / SPECIFICATION, json.dumps(specification), None)
            self._spawn(directory, lock, passphrase)
        finally:
            os.close(lock)  # The process has it as well, and keeps it.
        self._forget_old(job_id)
        return job_id

    def _next_id(self) -> str:
        """Return an id behind all others, whatever the clock says."""
        newest = max((int(one.partition("-")[0]) for one in self._ids()), default=0)
        number = max(time.time_ns() // 1000, newest + 1)
        return f"{number:016}-{secrets.token_hex(4)}"

    def _spawn(self, directory: Path, lock: int, passphrase: bytearray | None) -> None:
        process = subprocess.Popen(
            [sys.executable, "-I", "-m", "tde.cli.job_runner", str(directory), str(lock)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd="/",
            start_new_session=True,
            pass_fds=[lock],
        )
        assert process.stdin is not None
        assert process.stdout is not None
        with process.stdin as stream, process.stdout as answer:
            if answer.read(len(READY)) != READY:
                raise TdeError("the process of the job has not begun", remedy="Try again.")
            if passphrase is not None:
                stream.write(passphrase)

    def _lock(self, key: str, patience: float = 0.0) -> int:
        path = self._locks / key
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        if not lock_until(descriptor, time.monotonic() + patience):
            os.close(descriptor)
            raise JobRunsError(
                "another job works on this server", remedy="Wait until it has ended, or cancel it."
            )
        return descriptor

    def cancel(self, job_id: str) -> None:
        """Have a job end as by Ctrl-C: what its command can take back it takes back."""
        if (job := self.find(job_id)) is not None and job.state is State.RUNNING:
            (self._jobs / job_id / CANCEL).touch(mode=0o600)

    def find(self, job_id: str) -> Job | None:
        """Return a job; None where there is none."""
        if _ID.fullmatch(job_id) is None:
            return None
        directory = self._jobs / job_id
        try:
            specification = json.loads((directory / SPECIFICATION).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        ended = _read(directory / ENDED)
        if not ended:
            # Looked at first: a job that ends in between has said so by then.
            is_alive = self._is_locked(specification, directory)
            ended = _read(directory / ENDED)
        state = State(ended["state"]) if ended else State.RUNNING if is_alive else State.LOST
        return Job(
            id=job_id,
            server=specification["server"],
            what=specification["what"],
            steps=tuple(tuple(step) for step in specification["steps"]),
            state=state,
            began=int(job_id.partition("-")[0]) / 1e6,
            ended=ended.get("at"),
            code=ended.get("code"),
            progress=_read(directory / PROGRESS),
        )

    def _is_locked(self, specification: dict[str, Any], directory: Path) -> bool:
        """Tell whether the process of a job is there, which has the lock from its first moment."""
        if self._newest().get(specification["server"]) != directory.name:
            return False  # A later job could not have begun.
        try:
            os.close(self._lock(specification["lock"]))
        except JobRunsError:
            return True
        return False

    def _server_of(self, job_id: str) -> str:
        return str(_read(self._jobs / job_id / SPECIFICATION).get("server", ""))

    def output(self, job_id: str) -> str:
        """Return the end of what the commands of a job have printed."""
        if _ID.fullmatch(job_id) is None:
            return ""
        try:
            with (self._jobs / job_id / OUTPUT).open("rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - _LONGEST_OUTPUT))
                return file.read().decode("utf-8", "replace")
        except OSError:
            return ""

    def recent(self, server: str | None = None, most: int = 20) -> list[Job]:
        """Return the newest jobs, of one server or of all."""
        found = []
        for job_id in sorted(self._ids(), reverse=True):
            job = self.find(job_id)
            if job is not None and server in (None, job.server):
                found.append(job)
            if len(found) == most:
                break
        return found

    def running(self, server: str) -> Job | None:
        """Return the job that works on a server now."""
        return self.running_by_server().get(server)

    def running_by_server(self) -> dict[str, Job]:
        """Return the jobs that work now, by the ids of their servers."""
        found = {}
        for server, job_id in self._newest().items():
            job = self.find(job_id)
            if job is not None and job.state is State.RUNNING:
                found[server] = job
        return found

    def _newest(self) -> dict[str, str]:
        """Return the newest job of each server: no other can run."""
        return {self._server_of(job_id): job_id for job_id in sorted(self._ids())}

    def _ids(self) -> list[str]:
        return [path.name for path in self._jobs.iterdir() if _ID.fullmatch(path.name)]

    def _forget_old(self, newest: str) -> None:
        for job_id in sorted(self._ids(), reverse=True)[_MOST:]:
            job = self.find(job_id)
            if job_id == newest:
                continue
            if job is None or job.state is not State.RUNNING:
                shutil.rmtree(self._jobs / job_id, ignore_errors=True)


def _key_of(data_directory: Path) -> str:
    """Return what a lock is called: the same for a directory by whatever name."""
    real = os.path.realpath(data_directory)
    return hashlib.sha256(os.fsencode(real)).hexdigest()[:32]


def _read(path: Path) -> dict[str, Any]:
    """Return a file of a job; empty while it is not there."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
