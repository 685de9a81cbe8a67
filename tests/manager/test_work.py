"""What a DBA does in the pages, on real servers; and jobs that survive what they should."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tde.postgres import Cluster
from tests.manager.conftest import SECRET, Browser, Running
from tests.tools.test_patroni import free_ports


@pytest.fixture
def place(os_user_tmp_path: Path):
    """A directory for servers, which are stopped in the end."""
    yield os_user_tmp_path
    for pidfile in os_user_tmp_path.glob("*/postmaster.pid"):
        cluster = Cluster(pidfile.parent)
        if cluster.pid is not None:
            cluster.stop("immediate")


def test_a_server_is_made_encrypted_and_run(browser: Browser, place: Path) -> None:
    (port,) = free_ports(1)
    text = browser.run(
        "/new",
        label="One",
        data_directory=place / "one",
        port=port,
        encoding="UTF8",
        keystore=place / "keystore",
        aes="256",
        passphrase=SECRET,
        again=SECRET,
    )
    assert "Created an encrypted cluster" in text
    assert SECRET not in text
    page = next(part for part in browser.get("/").split('"') if part.startswith("/servers/"))
    assert f"port {port}" in browser.get(page)

    encryption = browser.get(f"{page}/encryption")
    assert "each start asks for the passphrase" in encryption
    browser.run(f"{page}/encryption/auto-open", bind="", passphrase=SECRET)
    assert "each start asks for the passphrase" not in browser.get(f"{page}/encryption")
    # From now on nobody types it.
    browser.run(f"{page}/service/restart")
    assert f"port {port}" in browser.get(page)
    browser.run(
        f"{page}/tablespaces", name="enc_space", location=place / "spaces", aes="128", passphrase=""
    )
    shown = browser.get(f"{page}/tablespaces")
    assert "enc_space" in shown
    assert "AES-128-XTS" in shown

    browser.run(f"{page}/encryption/close")
    assert "closed for sessions" in browser.get(page)
    assert "wrong passphrase" in browser.run(
        f"{page}/encryption/open", "failed", passphrase="not this one"
    )
    browser.run(f"{page}/encryption/open", passphrase=SECRET)
    assert "closed for sessions" not in browser.get(page)
    assert "Everything that should be ciphertext is" in browser.run(f"{page}/checks/audit")
    assert "the server encrypts with" in browser.get(f"{page}/checks")
    assert "ready to accept connections" in browser.get(f"{page}/log")
    browser.run(f"{page}/service/reload")
    browser.run(f"{page}/service/stop", mode="fast")
    assert "stopped" in browser.get("/")
    browser.post(f"{page}/remove")
    assert "No server is registered" in browser.get("/")
    assert (place / "one" / "PG_VERSION").exists()


def test_the_pages_speak_japanese(browser: Browser) -> None:
    answer = browser.post("/language", language="ja", back="/jobs")
    assert answer.url.path == "/jobs"
    assert '<html lang="ja">' in answer.text
    assert "ジョブ" in answer.text
    assert "サーバ" in browser.get("/")
    for back in ("//evil.example", "https://evil.example", "/\\evil.example"):
        assert browser.post("/language", language="en", back=back).url.path == "/"


def test_one_job_at_a_time(browser: Browser, place: Path, encrypted_cluster_factory, any_binaries):
    made = encrypted_cluster_factory(any_binaries)
    page = browser.register("one", made.data_directory)
    first = browser.post(f"{page}/service/stop", mode="smart")
    refused = browser.post(f"{page}/service/restart", code=400, mode="fast")
    assert "another job works on this server" in refused.text
    browser.wait(str(first.url).rpartition("/")[2])


@pytest.fixture
def held(browser: Browser, encrypted_cluster_factory, any_binaries) -> tuple[str, str]:
    """A server that is being stopped, and waits for a session; the id of that job."""
    made = encrypted_cluster_factory(any_binaries)
    page = browser.register("held", made.data_directory)
    parameters = made.cluster.connection_parameters()
    import psycopg2

    connection = psycopg2.connect(**parameters)
    job = str(browser.post(f"{page}/service/stop", mode="smart").url).rpartition("/")[2]
    yield page, job
    connection.close()


def runner_of(job: str) -> psutil.Process:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        for process in psutil.process_iter(["cmdline"]):
            if any(word.endswith(f"/jobs/{job}") for word in process.info["cmdline"] or ()):
                return process
        time.sleep(0.1)
    raise AssertionError("the job has no process")


def test_a_job_survives_the_manager(
    held: tuple[str, str], manager: Running, start_manager: Callable[..., Running]
) -> None:
    _, job = held
    process = runner_of(job)
    manager.process.kill()
    manager.process.wait()
    assert process.is_running()
    again = start_manager(directory=manager.directory).browser()
    assert "running" in again.get(f"/jobs/{job}")
    # Ctrl-C for the command, which has stopped nothing yet.
    again.post(f"/jobs/{job}/cancel")
    again.wait(job, "cancelled")


def test_a_job_that_was_killed_is_told_of(held: tuple[str, str], browser: Browser) -> None:
    page, job = held
    process = runner_of(job)
    children = process.children()
    os.kill(process.pid, signal.SIGKILL)
    for child in children:
        child.kill()
    browser.wait(job, "lost")
    assert "nobody knows how far it has come" in browser.get(f"/jobs/{job}")
    # Nothing keeps the next one away.
    browser.run(f"{page}/service/reload")
