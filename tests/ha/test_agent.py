"""The resource agent ocf:tde:keystore, run as Pacemaker does; only attrd_updater is a stand-in."""

from __future__ import annotations

import os
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tde.errors import PostgresError
from tde.ha.pacemaker import install_agent
from tests.conftest import RunningCluster

OCF_ROOT = Path("/usr/lib/ocf")
SUCCESS, NOT_RUNNING, DEGRADED, CONFIGURED, INSTALLED, UNIMPLEMENTED = 0, 7, 190, 6, 5, 3
TDE = Path(sys.executable).with_name("tde")
# It keeps attributes as files, and answers a query as Pacemaker's does.
_ATTRD = """\
#!/bin/sh
name= value= verb=
while [ $# -gt 0 ]; do
    case "$1" in
    --name) name=$2; shift ;;
    --update) verb=update value=$2; shift ;;
    --delete) verb=delete ;;
    --query) verb=query ;;
    esac
    shift
done
case "$verb" in
update) echo "$value" >"{place}/$name" ;;
delete) rm -f "{place}/$name" ;;
query)
    say() {{ [ -f "$2" ] && echo "name=\\"$name\\" host=\\"$1\\" value=\\"$(cat "$2")\\""; }}
    say "$(uname -n)" "{place}/$name"
    say other "{place}/$name.other"
    ;;
esac
exit 0
"""


@dataclass
class Agent:
    """The agent, and where its attributes are."""

    path: Path
    place: Path
    environment: dict[str, str]

    def run(self, action: str, **parameters: object) -> subprocess.CompletedProcess[str]:
        given = {f"OCF_RESKEY_{name}": str(value) for name, value in parameters.items()}
        return subprocess.run(
            [self.path, action],
            env={**self.environment, **given},
            capture_output=True,
            text=True,
            timeout=60,
        )

    def attribute(self, name: str = "tde-keystore") -> str | None:
        file = self.place / name
        return file.read_text().strip() if file.exists() else None


@pytest.fixture
def agent(tmp_path: Path) -> Agent:
    """The agent in a directory of agents, with all that Pacemaker gives it."""
    if not (OCF_ROOT / "lib/heartbeat/ocf-shellfuncs").exists():
        pytest.skip("there are no resource agents")
    root = tmp_path / "ocf"
    root.mkdir()
    (root / "lib").symlink_to(OCF_ROOT / "lib")
    place, programs = tmp_path / "attributes", tmp_path / "programs"
    for directory in (place, programs):
        directory.mkdir()
    (programs / "attrd_updater").write_text(_ATTRD.format(place=place))
    (programs / "attrd_updater").chmod(0o755)
    environment = {
        "PATH": f"{programs}:{os.environ['PATH']}",
        "OCF_ROOT": str(root),
        "OCF_RESOURCE_INSTANCE": "tde-keystore",
        "OCF_RESOURCE_TYPE": "keystore",
        "OCF_RESOURCE_PROVIDER": "tde",
        "HA_RSCTMP": str(tmp_path),
        "HA_LOGFACILITY": "",
        "HA_LOGFILE": str(tmp_path / "ha.log"),
    }
    return Agent(install_agent(root, TDE), place, environment)


def test_the_metadata_say_what_it_can(agent: Agent) -> None:
    done = agent.run("meta-data")
    assert done.returncode == SUCCESS
    document = ET.fromstring(done.stdout)
    assert document.findtext("version") == "1.1"
    actions = {one.get("name") for one in document.iter("action")}
    assert actions == {"start", "stop", "monitor", "validate-all", "meta-data"}
    parameters = {one.get("name"): one for one in document.iter("parameter")}
    assert parameters["pgdata"].get("required") == "1"
    for one in parameters.values():
        assert one.findtext("longdesc")
        assert one.find("content") is not None


def test_the_score_follows_the_keystore(agent: Agent, made: RunningCluster) -> None:
    assert made.keystore is not None
    options = {"pgdata": made.data_directory, "bindir": made.cluster.binaries.bindir}
    assert agent.run("monitor", **options).returncode == NOT_RUNNING
    assert agent.run("start", **options).returncode == SUCCESS
    assert agent.attribute() == "100"
    assert agent.run("monitor", **options).returncode == SUCCESS

    secret = made.keystore.path / "auto-open.key"
    secret.rename(secret.with_name("aside"))
    done = agent.run("monitor", **options)
    assert done.returncode == DEGRADED
    assert "because the keystore is not open" in done.stderr
    assert agent.attribute() == "50"
    made.cluster.stop()
    assert agent.run("monitor", **options).returncode == DEGRADED
    assert agent.attribute() == "0"

    secret.with_name("aside").rename(secret)
    assert agent.run("monitor", **options).returncode == SUCCESS
    assert agent.attribute() == "100"
    assert agent.run("stop", **options).returncode == SUCCESS
    assert agent.attribute() is None
    assert agent.run("stop", **options).returncode == SUCCESS
    assert agent.run("monitor", **options).returncode == NOT_RUNNING


def test_a_primary_that_serves_is_never_demoted_for_what_is_not_known(
    agent: Agent, made: RunningCluster, tmp_path: Path
) -> None:
    """The accident: tde is half upgraded, or this resource is restarted after a change."""
    options: dict[str, object] = {"pgdata": made.data_directory}
    broken = tmp_path / "broken"
    broken.write_text("#!/bin/sh\nexit 3\n")
    broken.chmod(0o755)
    assert agent.run("start", **options).returncode == SUCCESS
    done = agent.run("monitor", **options, tde=broken)
    assert done.returncode == DEGRADED
    assert "has not answered" in done.stderr
    assert agent.attribute() == "50"
    assert agent.run("stop", **options).returncode == SUCCESS
    assert agent.attribute() == "50"
    # A standby is not promoted for it.
    (made.data_directory / "standby.signal").touch()
    agent.run("start", **options)
    agent.run("monitor", **options, tde=broken)
    assert agent.attribute() == "0"


def test_other_keys_on_the_other_node_are_logged(agent: Agent, made: RunningCluster) -> None:
    options = {"pgdata": made.data_directory, "bindir": made.cluster.binaries.bindir}
    (agent.place / "tde-keystore-digest.other").write_text("0123456789abcdef\n")
    assert agent.run("start", **options).returncode == SUCCESS
    assert agent.attribute() == "100"
    log = Path(agent.environment["HA_LOGFILE"]).read_text()
    assert "do not have the same keys" in log


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({}, CONFIGURED),
        ({"pgdata": "/x", "tde": "/nowhere/tde"}, INSTALLED),
        ({"pgdata": "/x"}, SUCCESS),
    ],
)
def test_what_is_wrong_with_the_parameters(
    agent: Agent, options: dict[str, str], code: int
) -> None:
    assert agent.run("validate-all", **options).returncode == code


def test_a_program_that_says_nothing_means_not_ready(agent: Agent, tmp_path: Path) -> None:
    """The accident: tde is half upgraded when the primary fails."""
    broken = tmp_path / "broken"
    broken.write_text("#!/bin/sh\nexit 3\n")
    broken.chmod(0o755)
    assert agent.run("start", pgdata=tmp_path, tde=broken).returncode == SUCCESS
    assert agent.attribute() == "0"


def test_other_actions_are_refused(agent: Agent) -> None:
    assert agent.run("promote").returncode == UNIMPLEMENTED


def test_it_is_installed_beside_other_agents_only(
    tmp_path: Path, tde_command: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    with pytest.raises(PostgresError, match="ocf-shellfuncs"):
        install_agent(tmp_path, TDE)
    tde_command("ha", "install-agent", "--ocf-root", tmp_path, exit_code=1)
