"""The README's first cluster, typed line by line on a terminal as a reader would."""

from __future__ import annotations

import itertools
import os
import socket
import sys
from pathlib import Path

import pytest

from tde.postgres import Cluster
from tests.keystore.cheap_passphrase import PASSPHRASE
from tests.terminal import run_on_terminal

README = Path(__file__).parents[2] / "README.md"
HEADING = "## A first encrypted cluster"
PLACE = "/srv/tde"


def commands() -> list[str]:
    """Return the lines of the indented block, without the one that builds the checkout."""
    section = README.read_text().split(f"{HEADING}\n")[1].split("\n## ")[0]
    lines = [line.strip() for line in section.splitlines() if line.startswith("    ")]
    return [line for line in lines if not line.startswith("make setup")]


@pytest.fixture
def environment() -> dict[str, str]:
    """A reader's environment: tde in PATH, and a port that no other server uses."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PG", "TDE_"))}
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return {**kept, "PATH": path, "PGPORT": str(port)}


def test_the_first_cluster_of_the_readme_works_as_printed(
    encrypted_cluster_factory, os_user_tmp_path, environment
):
    encrypted_cluster_factory.track(Cluster(os_user_tmp_path / "data"))
    lines = commands()
    assert any(line.startswith("tde pg start") for line in lines)
    for line in lines:
        typed = line.replace(PLACE, str(os_user_tmp_path))
        answers = itertools.repeat(PASSPHRASE + b"\n")
        shown, exit_code = run_on_terminal(["bash", "-c", typed], answers, environment)
        assert exit_code == 0, f"{line}\n{shown}"
