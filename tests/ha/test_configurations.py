"""What ``tde ha configure`` prints is taken by those who read it."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

Run = Callable[..., subprocess.CompletedProcess[str]]
PACEMAKER = (
    *("ha", "configure", "pacemaker", "--node", "n1", "--node", "n2"),
    *("--service", "192.168.0.100/24", "--replication", "192.168.1.100/24"),
    *("--gateway", "192.168.0.1", "-D", "/srv/pg/main", "--bin", "/srv/tde/bin"),
    *("-k", "/srv/tde/keystore", "--archive", "/srv/archive"),
)
PATRONI = (
    *("ha", "configure", "patroni", "--scope", "pair", "--name", "n1"),
    *("--address", "192.168.1.11", "--etcd", "192.168.1.13:2379"),
    *("--network", "192.168.1.0/24", "-D", "/srv/pg/main", "--bin", "/srv/tde/bin"),
    *("-k", "/srv/tde/keystore"),
)


def test_both_shells_get_the_same_resources(tde_command: Run) -> None:
    crmsh = tde_command(*PACEMAKER).stdout
    pcs = tde_command(*PACEMAKER, "--format", "pcs").stdout
    names = set(re.findall(r"^primitive (\S+)", crmsh, re.MULTILINE))
    assert names == set(re.findall(r"^pcs -f \S+ resource create (\S+)", pcs, re.M))
    assert names == {"vip-master", "vip-rep", "ping", "tde-keystore", "pgsql"}
    for text in (crmsh, pcs):
        assert "stop_escalate=20" in text
        assert "ocf:tde:keystore" in text
        assert re.search(r"[Rr]ole=Promoted.* not_defined tde-keystore", text)
        assert 'restore_command="cp /srv/archive/%f %p"' in text
        assert "pgctl=/srv/tde/bin/pg_ctl" in text


def test_pcs_lines_are_commands(tde_command: Run) -> None:
    lines = tde_command(*PACEMAKER, "--format", "pcs").stdout.splitlines()
    words = [shlex.split(line) for line in lines if not line.startswith("#")]
    # The cluster is changed in one step, or not at all.
    assert words[0] == ["set", "-e"]
    assert words[1][:3] == ["pcs", "cluster", "cib"]
    assert words[-1][:3] == ["pcs", "cluster", "cib-push"]
    for line in words[2:-1]:
        assert line[:2] == ["pcs", "-f"]
        assert not any(word.startswith("{") for word in line)


def test_a_cluster_with_fencing_keeps_it(tde_command: Run) -> None:
    """The accident: loaded once more, and fencing is off."""
    for shell in ("crmsh", "pcs"):
        without = tde_command(*PACEMAKER, "--format", shell).stdout
        assert "stonith-enabled=false" in without
        text = tde_command(*PACEMAKER, "--format", shell, "--fencing").stdout
        assert "stonith-enabled" not in text
        assert "on-fail=block" not in text
        assert "on-fail=fence" in text


def test_an_address_must_be_one(tde_command: Run) -> None:
    wrong = [word if word != "192.168.0.100/24" else "nowhere" for word in PACEMAKER]
    assert "--service" in tde_command(*wrong, exit_code=2).stderr


def test_patroni_gets_a_whole_configuration(tde_command: Run) -> None:
    document: dict[str, Any] = yaml.safe_load(tde_command(*PATRONI).stdout)
    server = document["postgresql"]
    assert server["bin_dir"] == "/srv/tde/bin"
    words = shlex.split(server["pre_promote"])
    assert words[1:] == [
        *("ha", "check", "-D", "/srv/pg/main", "--keystore", "/srv/tde/keystore"),
        *("--bindir", "/srv/tde/bin", "--quiet"),
    ]
    assert Path(words[0]).is_file()
    assert set(server["callbacks"].values()) == {server["pre_promote"]}
    assert "data-checksums" in document["bootstrap"]["initdb"]
    shared = document["bootstrap"]["dcs"]
    assert shared["synchronous_mode"] is True
    assert shared["postgresql"]["use_pg_rewind"] is True


def test_patroni_takes_it(tde_command: Run, tmp_path: Path) -> None:
    patroni = shutil.which("patroni")
    if patroni is None:
        pytest.skip("there is no Patroni")
    file = tmp_path / "patroni.yml"
    file.write_text(tde_command(*PATRONI).stdout)
    done = subprocess.run(
        [patroni, "--validate-config", str(file)], capture_output=True, text=True, timeout=60
    )
    said = (done.stdout + done.stderr).splitlines()
    # What this machine lacks is no fault of the file.
    machine = re.compile(r"Port \d+ is|does not exist|bootstrap.pg_hba|in use|bin_dir|data_dir")
    assert [line for line in said if line and not machine.search(line)] == []
