"""What a DBA does in the pages, on real servers; and jobs that survive what they should."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import Callable
from html import unescape
from pathlib import Path

import psutil
import psycopg2
import pytest

from tde.keystore import read_key_log
from tde.postgres import Cluster
from tests.manager.conftest import SECRET, TDE, Browser, Running
from tests.replication.test_keys_on_standbys import wait_for
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
    page = pages_of(browser)["One"]
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
    newest = read_key_log(place / "keystore").entries[-1]
    assert newest.who["command"] == "tde keystore open"
    assert newest.who["via"] == "tde manager, administrator"
    assert "Everything that should be ciphertext is" in browser.run(f"{page}/checks/audit")
    assert "the server encrypts with" in browser.get(f"{page}/checks")
    assert "ready to accept connections" in browser.get(f"{page}/log")
    browser.run(f"{page}/service/reload")
    browser.run(f"{page}/service/stop", mode="fast")
    assert "stopped" in browser.get("/")
    browser.post(f"{page}/remove")
    assert "No server is registered" in browser.get("/")
    assert (place / "one" / "PG_VERSION").exists()


def pages_of(browser: Browser) -> dict[str, str]:
    """Return the pages of all servers, by their names."""
    found = re.findall(r'href="[^"]*(/servers/\w+)">([^<]+)<', browser.get("/"))
    return {name: page for page, name in found}


def make(browser: Browser, place: Path, label: str, port: int) -> str:
    """Make a server whose keystore opens by itself, and return its page."""
    browser.run(
        "/new",
        label=label,
        data_directory=place / label,
        port=port,
        encoding="UTF8",
        keystore=place / f"{label}-keystore",
        aes="256",
        passphrase=SECRET,
        again=SECRET,
        backup_directory=place / "backups",
    )
    page = pages_of(browser)[label]
    browser.run(f"{page}/encryption/auto-open", bind="", passphrase=SECRET)
    return page


def query(directory: Path, statement: str) -> str:
    """Ask as the server's user, whom the server knows; return what psql prints."""
    done = subprocess.run(
        [TDE, "psql", "-D", directory, "--", "-XAtqc", statement], capture_output=True, text=True
    )
    return (done.stdout + done.stderr).strip()


def test_the_report_in_a_browser(browser: Browser, place: Path) -> None:
    """Chapters 3 and 4: two servers, enc_space, default_tablespace, a standby, and its row."""
    ports = free_ports(2)
    page = make(browser, place, "first", ports[0])
    browser.run(
        f"{page}/tablespaces", name="enc_space", location=place / "spaces", aes="256", passphrase=""
    )
    (space,) = (place / "spaces").iterdir()
    shown = browser.get(f"{page}/settings/change?name=default_tablespace&value=enc_space")
    assert "+ default_tablespace = 'enc_space'" in shown
    browser.run(f"{page}/settings/change", name="default_tablespace", value="enc_space")
    first, second = place / "first", place / "second"
    assert '<td class="value changed">enc_space' in browser.get(f"{page}/settings?q=default_tabl")
    query(first, "CREATE TABLE t1 (c text)")
    query(first, "INSERT INTO t1 VALUES ('hoge')")
    assert query(first, "SELECT pg_relation_filepath('t1') LIKE 'pg_tblspc/%'") == "t"

    browser.run(f"{page}/replication/primary", network="")
    browser.run(
        f"{page}/replication/standby",
        label="second",
        data_directory=second,
        port=ports[1],
        keystore=place / "second-keystore",
        mapping=f"{space}={place / 'standby-space'}",
        slot="second",
        passphrase=SECRET,
    )
    wait_for(lambda: query(second, "SELECT c FROM t1") == "hoge")
    assert "second" in browser.get(f"{page}/replication")
    assert "streaming" in browser.get(f"{page}/replication")
    other = pages_of(browser)["second"]
    # Not opened by itself, and restarted: it waits for a passphrase, and with it serves again.
    browser.run(f"{other}/service/stop", mode="fast")
    assert "does not open by itself" not in browser.get(other)
    failed = browser.run(f"{other}/service/start", "failed", passphrase="not the one")
    assert "wrong passphrase" in failed
    browser.run(f"{other}/service/start-closed", passphrase=SECRET)
    assert "Required key not available" in query(second, "SELECT c FROM t1")
    message = "could not encrypt or decrypt data because the keystore is not open"
    assert message in browser.get(f"{other}/log")
    browser.run(f"{other}/encryption/open", passphrase=SECRET)
    assert query(second, "SELECT c FROM t1") == "hoge"


def test_tablespaces_are_moved_locked_and_rekeyed(browser: Browser, place: Path) -> None:
    page = make(browser, place, "one", free_ports(1)[0])
    data = place / "one"
    for name in ("first", "second"):
        browser.run(
            f"{page}/tablespaces", name=name, location=place / name, aes="256", passphrase=""
        )
    query(data, "CREATE TABLE t TABLESPACE first AS SELECT 7 AS n")
    browser.run(f"{page}/tablespaces/move", name="first", to="second", passphrase="")
    space = "SELECT spcname FROM pg_tablespace JOIN pg_class ON reltablespace = pg_tablespace.oid"
    assert query(data, f"{space} WHERE relname = 't'") == "second"
    browser.run(f"{page}/tablespaces/lock", name="second", passphrase="")
    assert "Required key not available" in query(data, "SELECT n FROM t")
    browser.run(f"{page}/tablespaces/unlock", name="second", passphrase="")
    assert query(data, "SELECT n FROM t") == "7"
    browser.run(f"{page}/service/stop", mode="fast")
    browser.run(f"{page}/tablespaces/rekey", passphrase="")
    browser.run(f"{page}/service/start")
    assert query(data, "SELECT n FROM t") == "7"
    shown = browser.get(f"{page}/clients")
    assert "tde psql -D" in shown
    assert "peer" in shown
    assert "tde tablespace rekey (tde manager, administrator)" in browser.get(f"{page}/encryption")
    for name in ("-D", "", "\n", "x" * 64):
        browser.post(f"{page}/tablespaces/lock", code=400, name=name, passphrase="")


def test_backups_are_taken_and_proven(browser: Browser, place: Path, os_user) -> None:
    page = make(browser, place, "one", free_ports(1)[0])
    backups = place / "backups"
    backups.mkdir()
    if os_user is not None:
        os.chown(backups, os_user.uid, os_user.gid)
    browser.run(f"{page}/backups/take", name="monday", passphrase="")
    assert "monday" in browser.get(f"{page}/backups")
    assert "is what was taken on" in browser.run(
        f"{page}/backups/verify", name="monday", passphrase=""
    )
    assert "audit" in browser.run(f"{page}/backups/drill", name="monday", passphrase="")
    for name in ("../monday", "/etc", "-D", "", "a/b"):
        browser.post(f"{page}/backups/take", code=400, name=name, passphrase="")


def test_a_plain_server_is_converted_and_back(
    browser: Browser, encrypted_cluster_factory, any_binaries, os_user_tmp_path: Path
) -> None:
    made = encrypted_cluster_factory.plain(any_binaries)
    made.query("CREATE TABLE t AS SELECT generate_series(1, 1000) AS n")
    page = browser.register("plain", made.data_directory)
    assert "It has to be stopped" in browser.get(f"{page}/convert")
    made.cluster.stop()
    done = browser.run(
        f"{page}/convert/encrypt",
        keystore=os_user_tmp_path / "new",
        aes="128",
        passphrase=SECRET,
        again=SECRET,
    )
    assert "Encrypted" in done
    browser.run(f"{page}/service/start", passphrase=SECRET)
    assert made.query("SELECT count(*) FROM t") == [(1000,)]
    browser.run(f"{page}/service/stop", mode="fast")
    assert "Decrypted" in browser.run(f"{page}/convert/decrypt", passphrase=SECRET)


def test_settings_are_searched_and_nothing_is_smuggled_in(
    browser: Browser, encrypted_cluster_factory, any_binaries
) -> None:
    made = encrypted_cluster_factory(any_binaries)
    page = browser.register("one", made.data_directory)
    text = browser.get(f"{page}/settings?q=work_mem")
    assert "autovacuum_work_mem" in text
    assert "shared_buffers" not in text
    hostile = "x'; DROP TABLE t; -- \\' \\"
    browser.run(f"{page}/settings/change", name="application_name", value=hostile)
    wait_for(lambda: made.query("SHOW application_name") == [(hostile,)])
    # As it is shown, it can be saved again; and an empty list is no list of an empty name.
    for value in ('"a b", public', '"$user", public, "x""y"'):
        browser.run(f"{page}/settings/change", name="search_path", value=value)
        wait_for(lambda value=value: made.query("SHOW search_path") == [(value,)])
        assert value in unescape(browser.get(f"{page}/settings/change?name=search_path"))
    browser.run(f"{page}/settings/change", name="session_preload_libraries", value="")
    assert made.query("SHOW session_preload_libraries") == [("",)]
    browser.post(f"{page}/settings/change", code=400, name="search_path", value='"a')
    # Of what the session that asks has of its own, the server's is shown.
    assert "<option selected>off" in browser.get(
        f"{page}/settings/change?name=default_transaction_read_only"
    )
    browser.run(f"{page}/settings/change", name="search_path", reset="yes")
    wait_for(lambda: made.query("SHOW search_path") == [('"$user", public',)])
    for name in ("x; DROP TABLE t", "a b", "", "primary_conninfo", "PRIMARY_CONNINFO", "x\ny"):
        browser.post(f"{page}/settings/change", code=400, name=name, value="1")
    browser.run(f"{page}/settings/change", "failed", name="work_mem", value="lots")


def test_the_pages_speak_japanese(browser: Browser) -> None:
    answer = browser.post("/language", language="ja", back="/jobs")
    assert browser.path_of(answer) == "/jobs"
    assert '<html lang="ja">' in answer.text
    assert "ジョブ" in answer.text
    assert "サーバ" in browser.get("/")
    for back in ("//evil.example", "https://evil.example", "/\\evil.example"):
        answer = browser.post("/language", language="en", back=back)
        assert browser.path_of(answer) == "/"


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


def test_a_clock_that_was_ahead_hides_no_job(
    browser: Browser, manager: Running, encrypted_cluster_factory, any_binaries
) -> None:
    made = encrypted_cluster_factory(any_binaries)
    page = browser.register("one", made.data_directory)
    browser.run(f"{page}/service/reload")
    (old,) = (manager.directory / "jobs").iterdir()
    ahead = old.with_name(f"{int(old.name[:16]) + 10**15:016}{old.name[16:]}")
    old.rename(ahead)
    assert "reload_conf" in browser.run(f"{page}/service/reload")
    assert len(list((manager.directory / "jobs").iterdir())) == 2
