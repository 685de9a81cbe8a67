"""An ordinary user, to whom cluster and server are closed, is told what he cannot see."""

from __future__ import annotations

import json
import os
import pwd
from pathlib import Path

import pytest

from tde.postgres import doctor, list_binaries
from tde.postgres.server.os_user import OsUser
from tde.postgres.server.reachable import reachable_binaries

pytestmark = pytest.mark.on_disk


def test_an_ordinary_user_guesses_nothing(running, stopped):
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    running.cluster.default_log.parent.chmod(0o755)
    report = as_nobody(running.data_directory)
    assert report["pid"] is None
    findings = {f["check"]: f for f in report["findings"] if f["group"] in ("Cluster", "Machine")}
    assert findings["access"]["verdict"] == "unknown"
    assert findings["access"]["remedy"]
    assert "server" not in findings
    assert findings["swap"]["verdict"] in ("ok", "problem")
    assert report["healthy"] is False
    # With access for the group, or as here for all, only the server stays hidden.
    opened = [running.data_directory / name for name in ("PG_VERSION", "postmaster.pid")]
    for path in (running.data_directory, *opened):
        path.chmod(0o755)
    report = as_nobody(running.data_directory)
    running.data_directory.chmod(0o700)
    for path in opened:
        path.chmod(0o600)
    running.cluster.default_log.parent.chmod(0o700)
    findings = {f["check"]: f for f in report["findings"]}
    assert findings["server"]["verdict"] == "unknown"
    assert findings["keystore"]["verdict"] == "unknown"
    assert findings["configuration"]["verdict"] == "unknown"


def as_nobody(data_directory: Path) -> dict:
    """Return the report that an unprivileged user gets, of a process of its own."""
    nobody = OsUser.from_passwd(pwd.getpwuid(65534))
    found = reachable_binaries(list_binaries()[0], nobody)
    doctor(data_directory, found)  # Load every module while they can be read.
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setgid(nobody.gid)
            os.setuid(nobody.uid)
            report = doctor(data_directory, found).as_json()
            os.write(writing, json.dumps(report).encode())
        except BaseException as error:
            os.write(writing, repr(error).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        text = pipe.read()
    os.waitpid(child, 0)
    return json.loads(text)
