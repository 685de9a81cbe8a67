"""The examples for containers: PostgreSQL's official image, as far as it can be had without one."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import yaml

from tests.docs.pages import commands
from tests.keystore.cheap_passphrase import PASSPHRASE
from tests.postgres.service.container import DATA, EXAMPLES
from tests.postgres.service.namespace import can_unshare
from tests.terminal import run_on_terminal

CANARY = "canary-of-a-container"


@contextlib.contextmanager
def running(place: Path, keystore: Path, bindir: Path) -> Iterator[psutil.Process]:
    """Run the entrypoint as process 1, and yield the server when it is that."""
    code = "import sys; from pathlib import Path; from tests.postgres.service import container; "
    code += "container.run(*map(Path, sys.argv[1:]))"
    unshare = ["unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--mount-proc"]
    with (place.parent / "container.log").open("w") as log:
        container = subprocess.Popen(
            [*unshare, sys.executable, "-c", code, place, keystore, bindir],
            stdout=log,
            stderr=log,
            cwd=Path(__file__).parents[3],
        )
    try:
        yield _server(container, Path(log.name))
    finally:
        with contextlib.suppress(psutil.NoSuchProcess):
            for child in psutil.Process(container.pid).children():
                child.kill()  # Process 1, and so all.
        container.wait(timeout=30)


def _server(container: subprocess.Popen[bytes], log: Path) -> psutil.Process:
    deadline = time.monotonic() + 120
    while "ready to accept connections" not in log.read_text().partition("server stopped")[2]:
        assert container.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.1)
    (server,) = psutil.Process(container.pid).children()
    return server


def inside(server: psutil.Process, *command: object) -> str:
    """Run a program in the container, as `docker exec -u postgres` does."""
    enter = ["nsenter", f"--target={server.pid}", "--mount", "--root", "--pid"]
    user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups"]
    done = subprocess.run(
        [*enter, *user, *map(str, command)], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def make_keystore(directory: Path) -> Path:
    """Type what the page says, with another directory for /srv and this machine's group."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    os.chown(directory, 0, 0)  # As /srv is.
    directory.chmod(0o755)
    for line in commands("containers.md", "The keystore"):
        here = line.replace("/srv", str(directory)).replace("999", "postgres")
        shown, exit_code = run_on_terminal(
            ["bash", "-c", here], itertools.repeat(PASSPHRASE + b"\n"), {**os.environ, "PATH": path}
        )
        assert exit_code == 0, f"{line}\n{shown}"
    return directory / "tde" / "keystore"


@pytest.mark.skipif(not can_unshare(), reason="needs root, and mounts of its own")
def test_the_entrypoint_makes_and_runs_an_encrypted_server_as_process_1(
    os_user_tmp_path, any_binaries
):
    keystore = make_keystore(os_user_tmp_path)
    place = os_user_tmp_path / "place"
    place.mkdir()
    with running(place, keystore, any_binaries.bindir) as server:
        psql = ("psql", "-XAtq", "-h", "/run/postgresql", "-U", "postgres", "-d", "shop", "-c")
        inside(server, *psql, f"CREATE TABLE t AS SELECT '{CANARY}' AS a")
        inside(server, *psql, "CHECKPOINT")
        assert inside(server, *psql, "SELECT a FROM t") == f"{CANARY}\n"
        # A child that ends is process 1's, which is the server: it must not mistake it for one.
        inside(server, *psql, "SELECT pg_reload_conf()")
        data = Path(f"/proc/{server.pid}/root{DATA}")
        assert (data / "tde.json").exists()
        for file in (path for path in data.rglob("*") if path.is_file()):
            assert CANARY.encode() not in file.read_bytes(), file
        status = Path(f"/proc/{server.pid}/status").read_text()
        assert [line.split()[-1] for line in status.splitlines() if "NSpid" in line] == ["1"]
        os.kill(server.pid, signal.SIGINT)
        assert server.wait(timeout=60) in (0, None)
    assert PASSPHRASE.decode() not in (os_user_tmp_path / "container.log").read_text()


def test_the_examples_name_what_there_is():
    """Files that are named are there, and the variables are those of the entrypoint."""
    compose = yaml.safe_load((EXAMPLES / "compose.yaml").read_text())
    entrypoint = (EXAMPLES / "tde-entrypoint.sh").read_text()
    for service in compose["services"].values():
        for name in service["environment"]:
            assert name in entrypoint or name == "POSTGRES_PASSWORD_FILE"
        for volume in service["volumes"]:
            source = volume.split(":")[0]
            given = source in ("./keystore", *compose["volumes"])
            assert given or (EXAMPLES / source).exists()
        assert set(service["secrets"]) <= compose["secrets"].keys()
    (kubernetes,) = yaml.safe_load_all((EXAMPLES / "kubernetes.yaml").read_text())
    pod = kubernetes["spec"]["template"]["spec"]
    claims = kubernetes["spec"]["volumeClaimTemplates"]
    volumes = {volume["name"] for volume in pod["volumes"]}
    volumes |= {claim["metadata"]["name"] for claim in claims}
    for container in (*pod["containers"], *pod["initContainers"]):
        assert {mount["name"] for mount in container["volumeMounts"]} <= volumes
    dockerfile = (EXAMPLES / "Dockerfile").read_text()
    assert "tde-entrypoint.sh" in dockerfile
    for script in ("tde-entrypoint.sh", "replication.sh"):
        subprocess.run(["sh", "-n", EXAMPLES / script], check=True)


def test_the_password_of_the_standby_is_in_no_argument(tmp_path):
    """Everybody who sees the processes of the container's host sees their arguments."""
    script = (EXAMPLES / "replication.sh").read_text().replace("/run/secrets", str(tmp_path))
    (tmp_path / "replication").write_text("a secret of the standby")
    psql = tmp_path / "psql"
    psql.write_text(f'#!/bin/sh\necho "$@" >{tmp_path}/arguments; cat >{tmp_path}/input')
    psql.chmod(0o755)
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "PGDATA": str(tmp_path)}
    subprocess.run(["sh", "-c", script], env=environment, check=True)
    assert "secret" not in (tmp_path / "arguments").read_text()
    assert f"`cat {tmp_path}/replication`" in (tmp_path / "input").read_text()
    (tmp_path / "replication").unlink()
    assert subprocess.run(["sh", "-c", script], env=environment).returncode == 1
