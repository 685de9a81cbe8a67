"""A manager that runs, and a browser of few words that is logged in."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from html import unescape
from pathlib import Path
from typing import Any

import pytest

httpx = pytest.importorskip("httpx")
pytest.importorskip("uvicorn")

TDE = Path(sys.executable).with_name("tde")
_ADDRESS = re.compile(r"Open (https?://[^/]+)(/[\w-]+)/login\?token=(\S+)")
SECRET = "correct horse battery"


@dataclass
class Running:
    """A manager's process, and what it has printed last."""

    process: subprocess.Popen[str]
    origin: str
    prefix: str
    token: str
    directory: Path

    @property
    def base(self) -> str:
        return f"{self.origin}{self.prefix}"

    def another_token(self) -> str:
        """Ask for one, as an administrator does who has another browser."""
        self.process.send_signal(signal.SIGUSR1)
        return _read_address(self.process)[2]

    def browser(self, token: str | None = None) -> Browser:
        """Log in with the first token, or with another one."""
        client = httpx.Client(base_url=self.base, follow_redirects=True, timeout=60)
        answer = client.get("/login", params={"token": token or self.token})
        assert answer.status_code == 200, answer.text
        return Browser(client, self)


class Browser:
    """Follows links and sends forms."""

    def __init__(self, client: Any, manager: Running) -> None:
        self.client = client
        self.manager = manager
        self.csrf = re.findall(r'name="csrf" value="([^"]+)"', client.get("/").text)[0]

    def get(self, path: str, code: int = 200) -> str:
        answer = self.client.get(path)
        assert answer.status_code == code, answer.text
        return str(answer.text)

    def post(self, path: str, code: int = 200, **fields: object) -> Any:
        answer = self.client.post(
            path, data={"csrf": self.csrf, **fields}, headers={"Origin": self.manager.origin}
        )
        assert answer.status_code == code, answer.text
        return answer

    def run(self, path: str, state: str = "done", **fields: object) -> str:
        """Send a form that begins a job, and return what the job has printed."""
        job = str(self.post(path, **fields).url).rpartition("/")[2]
        return self.wait(job, state)

    def wait(self, job: str, state: str = "done", seconds: float = 120) -> str:
        deadline = time.monotonic() + seconds
        while True:
            text = self.get(f"/jobs/{job}")
            now = re.findall(r'data-state="(\w+)"', text)[0]
            output = unescape(re.findall(r"data-output>(.*?)</pre>", text, re.DOTALL)[0])
            if now != "running":
                assert now == state, output
                return output
            assert time.monotonic() < deadline, output
            time.sleep(0.1)

    def register(self, label: str, directory: Path) -> str:
        """Register a server, and return its page."""
        answer = self.post("/servers", label=label, data_directory=directory)
        return self.path_of(answer)

    def path_of(self, answer: Any) -> str:
        """Return where an answer has led, below the manager's own path."""
        return str(answer.url.path).removeprefix(self.manager.prefix)


@pytest.fixture
def start_manager(tmp_path: Path) -> Iterator[Callable[..., Running]]:
    """Start managers; at the end none is left."""
    running: list[subprocess.Popen[str]] = []

    def start(*options: object, directory: Path | None = None) -> Running:
        place = directory or tmp_path / "manager"
        command = [TDE, "manager", "--listen", "127.0.0.1:0", "--directory", place, *options]
        process = subprocess.Popen(
            [str(word) for word in command], stdout=subprocess.PIPE, text=True
        )
        running.append(process)
        return Running(process, *_read_address(process), place)

    yield start
    for process in running:
        process.terminate()
        process.wait(30)


def _read_address(process: subprocess.Popen[str]) -> tuple[str, str, str]:
    assert process.stdout is not None
    line = process.stdout.readline()
    found = _ADDRESS.search(line)
    assert found is not None, line
    return found[1], found[2], found[3]


@pytest.fixture
def manager(start_manager: Callable[..., Running]) -> Running:
    return start_manager()


@pytest.fixture
def browser(manager: Running) -> Browser:
    return manager.browser()
