"""A disk that does not answer, and another manager that stands still: pages go on."""

from __future__ import annotations

import fcntl
import signal
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.manager.conftest import SECRET, Browser, Running
from tests.power_loss.recording import build_recorder, why_unavailable

NO_ANSWER = "no answer within 20 seconds"


class HangingDisk:
    """A file system that can be stopped; who looks at it waits."""

    def __init__(self, root: Path, process: subprocess.Popen[bytes]) -> None:
        self.root = root
        self._process = process

    @contextmanager
    def hanging(self) -> Iterator[None]:
        self._process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGCONT)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[HangingDisk]:
    if (why := why_unavailable()) is not None:
        pytest.skip(why)
    root, backing = tmp_path / "disk", tmp_path / "backing"
    for directory in (root, backing):
        directory.mkdir()
    program = build_recorder(tmp_path)
    process = subprocess.Popen([program, backing, tmp_path / "journal", root])
    while not root.is_mount():
        assert process.poll() is None
        time.sleep(0.02)
    yield HangingDisk(root, process)
    subprocess.run(["fusermount3", "-u", "-z", root], check=True)
    process.wait(30)


def test_a_disk_that_hangs_stops_no_other_page(
    manager: Running, browser: Browser, disk: HangingDisk
) -> None:
    data = disk.root / "data"
    data.mkdir()
    (data / "PG_VERSION").write_text("18\n")
    keystore = disk.root / "keystore"
    page = browser.register("one", data)
    others = [manager.browser(manager.another_token()) for _ in range(4)]
    with ThreadPoolExecutor() as pool, disk.hanging():
        listed = pool.submit(others[0].get, "/")
        shown = pool.submit(others[1].get, page)
        place = {"data_directory": disk.root / "new", "keystore": keystore}
        secrets = {"passphrase": SECRET, "again": SECRET}
        asked = [
            pool.submit(others[2].post, f"{page}/encryption/verify", 400, passphrase=SECRET),
            pool.submit(others[3].post, "/new", 400, label="two", **place, **secrets),
        ]
        time.sleep(1)
        for path in ("/jobs", "/new"):
            browser.get(path)
        assert not any(one.done() for one in (listed, shown, *asked))
        assert NO_ANSWER in listed.result()
        assert "one" in shown.result()
        for one in asked:
            assert NO_ANSWER in one.result().text
    assert NO_ANSWER not in browser.get("/")


def test_another_manager_that_stands_still(manager: Running, browser: Browser) -> None:
    with (manager.directory / "servers.json.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        data = manager.directory.parent / "data"
        data.mkdir()
        (data / "PG_VERSION").write_text("18\n")
        refused = browser.post("/servers", 400, label="one", data_directory=data)
        assert "another manager has the list of servers locked" in refused.text
    assert browser.register("one", data)
    assert list(manager.directory.glob(".*.tmp")) == []
