"""Who is not let in, and what nobody can have the manager do."""

from __future__ import annotations

import json
import os
import shutil
import socket
import ssl
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from tde.manager.places import prepare_directory
from tde.manager.security.password import set_password
from tests.keystore.certificates import make_certificates
from tests.manager.conftest import SECRET, TDE, Browser, Running
from tests.terminal import run_on_terminal

HOSTILE = "<script>alert(1)</script>"


def test_nobody_without_a_token(manager: Running) -> None:
    for path in ("/", "/new", "/jobs", "/servers/00000000"):
        answer = httpx.get(manager.base + path)
        assert (answer.status_code, answer.headers["location"]) == (303, f"{manager.prefix}/login")
    assert httpx.get(f"{manager.base}/login").status_code == 401
    assert httpx.get(f"{manager.base}/jobs/x/events").status_code == 401
    for token in ("", "x", "\0", "a" * 5000):
        answer = httpx.get(f"{manager.base}/login", params={"token": token})
        assert "set-cookie" not in answer.headers


def test_a_token_lets_one_browser_in_once(manager: Running) -> None:
    manager.browser()
    again = httpx.get(f"{manager.base}/login", params={"token": manager.token})
    assert again.status_code == 403
    assert "set-cookie" not in again.headers
    other = manager.another_token()
    assert other != manager.token
    manager.browser(other)


def test_nobody_keeps_others_out_by_guessing(manager: Running) -> None:
    """The attack: eleven pictures of a web site used up the tries of the administrator."""
    with httpx.Client(base_url=manager.base) as client:
        codes = {
            client.get("/login", params={"token": str(number)}).status_code for number in range(200)
        }
    assert codes == {403}
    manager.browser()


def test_the_cookie_is_sent_to_no_other_port(manager: Running) -> None:
    """The attack: whoever listens on another port of 127.0.0.1 gets the cookies of all of them.

    But only those for his path, and this one nobody knows.
    """
    answer = httpx.get(f"{manager.base}/login", params={"token": manager.token})
    assert f"path={manager.prefix.lower()}" in answer.headers["set-cookie"].lower()
    assert len(manager.prefix) > 40
    for path in ("/", "/login", "/servers", f"{manager.prefix[:-1]}/login", "/static/manager.css"):
        assert httpx.get(f"{manager.origin}{path}").status_code == 404


def test_the_cookie_is_the_browser_s_alone(manager: Running) -> None:
    answer = httpx.get(f"{manager.base}/login", params={"token": manager.token})
    cookie = answer.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    assert manager.token not in cookie


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://[::1"},
        {},
        {"Origin": "{origin}", "Sec-Fetch-Site": "cross-site"},
        {"Origin": "{origin}.evil.example"},
        {"Origin": "https://evil.example#{origin}"},
    ],
)
def test_a_form_of_another_site_is_refused(browser: Browser, headers: dict[str, str]) -> None:
    sent = {name: value.format(origin=browser.manager.origin) for name, value in headers.items()}
    answer = browser.client.post("/logout", data={"csrf": browser.csrf}, headers=sent)
    assert answer.status_code == 403
    browser.get("/")


def test_a_form_without_this_session_s_token_is_refused(browser: Browser) -> None:
    for csrf in ("", "x", browser.csrf[:-1], HOSTILE):
        browser.csrf, kept = csrf, browser.csrf
        browser.post("/servers", code=403, label="x", data_directory="/srv")
        browser.csrf = kept
    assert "No server is registered" in browser.get("/")


def test_another_name_for_this_address_is_refused(manager: Running, browser: Browser) -> None:
    """DNS rebinding: a browser takes evil.example for 127.0.0.1, with evil.example's pages."""
    port = urlsplit(manager.origin).port
    for host in (f"evil.example:{port}", "127.0.0.1", f"127.0.0.1:{port}.evil.example", ""):
        answer = browser.client.get("/", headers={"Host": host})
        assert answer.status_code in (400, 421), host
    assert browser.client.get("/", headers={"Host": f"localhost:{port}"}).status_code == 200


def test_no_script_but_our_own(browser: Browser, manager: Running) -> None:
    for path in ("/", "/new", "/jobs", "/nowhere"):
        answer = browser.client.get(path)
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert answer.headers["x-frame-options"] == "DENY"
        assert answer.headers["cache-control"] == "no-store"
        assert "<script>" not in answer.text
        assert " style=" not in answer.text
        assert manager.prefix not in answer.headers.get("referer", "")


def test_what_is_hostile_is_shown_and_does_nothing(
    browser: Browser, encrypted_cluster_factory, any_binaries
) -> None:
    made = encrypted_cluster_factory(any_binaries)
    made.query(f'CREATE ROLE "{HOSTILE}"')
    made.query(f"DO $$ BEGIN RAISE LOG '{HOSTILE}'; END $$")
    page = browser.register(HOSTILE, made.data_directory)
    for path in ("/", page, f"{page}/tablespaces", f"{page}/encryption", f"{page}/checks", "/jobs"):
        assert HOSTILE not in browser.get(path)
    assert "&lt;script&gt;" in browser.get(page)


def test_paths_lead_nowhere(browser: Browser, tmp_path: Path) -> None:
    for directory in ("../../etc", "etc", "/etc/../root", "", "\0", "/srv/\npg", "-D"):
        browser.post("/servers", code=400, label="x", data_directory=directory)
    assert "No server is registered" in browser.get("/")
    for path in ("/static/../app.py", "/static/%2e%2e/app.py", "/jobs/%2e%2e%2fx"):
        assert browser.client.get(path).status_code in (303, 401, 404)


def test_a_reader_changes_nothing(
    start_manager: Callable[..., Running], tmp_path: Path, encrypted_cluster_factory, any_binaries
) -> None:
    made = encrypted_cluster_factory(any_binaries)
    page = start_manager().browser().register("one", made.data_directory)
    reader = start_manager("--read-only").browser()
    text = reader.get(page)
    assert "Read only" in text
    assert "/service/" not in text
    for path in (f"{page}/service/stop", f"{page}/encryption/close", "/servers", f"{page}/remove"):
        reader.post(path, code=403, label="x", data_directory="/srv")
    assert made.cluster.pid is not None


def test_forms_that_are_too_large_or_too_slow(manager: Running, browser: Browser) -> None:
    browser.post("/servers", code=413, label="x" * 70_000, data_directory="/srv")
    port = urlsplit(manager.origin).port
    slow = [socket.create_connection(("127.0.0.1", port)) for _ in range(50)]
    for one in slow:
        one.sendall(
            f"POST {manager.prefix}/servers HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n"
            f"Origin: {manager.origin}\r\n"
            f"Cookie: tde_manager={browser.client.cookies['tde_manager']}\r\n"
            "Content-Type: application/x-www-form-urlencoded\r\n"
            "Content-Length: 1000\r\n\r\nc".encode()
        )
    # Others are served meanwhile.
    began = time.monotonic()
    browser.get("/")
    assert time.monotonic() - began < 5
    # And those are given up, whatever they still promise.
    slow[0].settimeout(60)
    assert slow[0].recv(100).startswith((b"HTTP/1.1 4", b""))
    for one in slow:
        one.close()


def test_passphrases_are_limited_and_left_nowhere(
    manager: Running, browser: Browser, encrypted_cluster_factory, any_binaries
) -> None:
    made = encrypted_cluster_factory(any_binaries)
    page = browser.register("one", made.data_directory)
    for _ in range(5):
        browser.run(f"{page}/encryption/open", "failed", passphrase=SECRET)
    refused = browser.post(f"{page}/encryption/open", code=429, passphrase=SECRET)
    assert "tried too often" in refused.text
    for path in manager.directory.rglob("*"):
        if path.is_file():
            assert SECRET.encode() not in path.read_bytes(), path
    for text in (refused.text, browser.get(page), browser.get("/jobs")):
        assert SECRET not in text


def test_a_password_and_tls(start_manager: Callable[..., Running], tmp_path: Path) -> None:
    place = tmp_path / "manager"
    answers = [SECRET.encode() + b"\n"] * 2
    shown, code = run_on_terminal(
        [str(TDE), "manager", "--set-password", "--directory", str(place)], answers
    )
    assert code == 0, shown
    assert SECRET not in (place / "password.json").read_text()
    certificates = make_certificates(tmp_path / "tls")
    tls = (
        "--tls-cert",
        certificates.certificate("server"),
        "--tls-key",
        certificates.key("server"),
    )
    manager = start_manager(*tls, directory=place)
    assert manager.base.startswith("https://")
    origin = manager.origin.replace("127.0.0.1", "localhost")
    base = f"{origin}{manager.prefix}"
    verify = ssl.create_default_context(cafile=str(certificates.ca))
    client = httpx.Client(base_url=base, verify=verify, timeout=30)
    headers = {"Origin": origin}
    assert client.post("/login", data={"password": SECRET}).status_code == 403
    wrong = [
        client.post("/login", data={"password": "no"}, headers=headers).status_code
        for _ in range(12)
    ]
    assert wrong == [403] * 10 + [429] * 2
    # Who guesses keeps nobody with a token out.
    answer = client.get("/login", params={"token": manager.token})
    assert "secure" in answer.headers["set-cookie"].lower()
    assert client.get("/").status_code == 200


def test_the_right_password_lets_in(start_manager: Callable[..., Running], tmp_path: Path) -> None:
    place = tmp_path / "manager"
    prepare_directory(place)
    set_password(place, bytearray(SECRET.encode()))
    manager = start_manager("--read-only", directory=place)
    with httpx.Client(base_url=manager.base, follow_redirects=True, timeout=30) as client:
        assert "Password of the manager" in client.get("/login").text
        headers = {"Origin": manager.origin}
        answer = client.post("/login", data={"password": SECRET}, headers=headers)
        assert answer.status_code == 200
        assert "Read only" in answer.text


def test_browsers_without_a_certificate(
    start_manager: Callable[..., Running], tmp_path: Path
) -> None:
    made = make_certificates(tmp_path / "tls")
    tls = ("--tls-cert", made.certificate("server"), "--tls-key", made.key("server"))
    manager = start_manager(*tls, "--client-ca", made.ca)
    page = f"{manager.base.replace('127.0.0.1', 'localhost')}/login"
    context = ssl.create_default_context(cafile=str(made.ca))
    with pytest.raises(httpx.HTTPError):
        httpx.get(page, verify=context)
    context.load_cert_chain(made.certificate("client"), made.key("client"))
    assert httpx.get(page, verify=context).status_code == 401


def test_other_machines_need_tls_and_a_proof(tde_command, tmp_path: Path) -> None:
    made = make_certificates(tmp_path / "tls")
    tls = ("--tls-cert", made.certificate("server"), "--tls-key", made.key("server"))
    refused = tde_command(
        *("manager", "--listen", "192.0.2.1:8480", *tls, "--directory", tmp_path / "m"), exit_code=1
    )
    assert "have to prove who they are" in refused.stderr
    tde_command("manager", "--tls-cert", made.certificate("server"), exit_code=2)
    for place in ("0.0.0.0:8480", "[::]:8480", "192.168.0.1:8480", "example.com:80", "8480"):
        refused = tde_command("manager", "--listen", place, exit_code=1)
        assert "tde: error" in refused.stderr


def test_what_lies_in_the_state_directory_is_this_user_s_alone(tde_command, tmp_path: Path) -> None:
    """The attack: a directory of another user, or a link, whose jobs root would run."""
    shared = tmp_path / "shared"
    shared.mkdir(mode=0o777)
    shared.chmod(0o777)
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere").mkdir()
    for place in (shared, link, shared / "below"):
        refused = tde_command("manager", "--directory", place, exit_code=1)
        assert "no directory of this user alone" in refused.stderr
    assert (tmp_path / "elsewhere").stat().st_mode & 0o777 != 0o700


def test_keys_go_nowhere_else(
    browser: Browser, encrypted_cluster_factory, any_binaries, keystore_factory
) -> None:
    """The attack: tde.json names another copy of the keystore, which would get the keys."""
    made = encrypted_cluster_factory(any_binaries)
    page = browser.register("one", made.data_directory)
    other = made.keystore.path.with_name("other")
    shutil.copytree(made.keystore.path, other)
    marker = made.data_directory / "tde.json"
    document = json.loads(marker.read_text())
    document["keystore"] = str(other)
    made.cluster.stop()
    marker.write_text(json.dumps(document))
    refused = browser.post(f"{page}/encryption/auto-open", code=400, bind="", passphrase=SECRET)
    assert "find out who can write to the data directory" in refused.text
    assert not (other / "auto-open.key").exists()


def test_a_pipe_in_the_place_of_a_seal_stops_nothing(
    browser: Browser, encrypted_cluster_factory, any_binaries, tmp_path: Path
) -> None:
    made = encrypted_cluster_factory(any_binaries)
    backups = tmp_path / "backups"
    backups.mkdir()
    answer = browser.post(
        "/servers", label="one", data_directory=made.data_directory, backup_directory=backups
    )
    page = browser.path_of(answer)
    for name in ("a", "b"):
        (backups / name).mkdir()
    os.mkfifo(backups / "a.seal.json")
    (backups / "b.seal.json").write_text('{"format": {"name": "tde-backup-seal", "version": 1}}')
    for _ in range(50):
        assert "There is none yet" in browser.get(f"{page}/backups")


def test_silent_connections_are_given_up(manager: Running) -> None:
    port = urlsplit(manager.origin).port
    silent = [socket.create_connection(("127.0.0.1", port)) for _ in range(20)]
    for one in silent:
        one.settimeout(30)
        assert one.recv(1) == b""
        one.close()
