"""A plain cluster that was stopped, and a copy of it for each test."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.convert.conversions import Original, make_original
from tests.keystore.cheap_passphrase import PASSPHRASE


@pytest.fixture(scope="module")
def original(module_cluster_factory, any_binaries) -> Original:
    return make_original(module_cluster_factory, any_binaries)


@pytest.fixture
def copy(original, request):
    """A copy of the stopped cluster, for one test."""
    made = original.copy(request.node.name.replace("[", "-").rstrip("]"))
    yield made
    shutil.rmtree(made.data_directory)


@pytest.fixture
def tde_command():
    """Runs ``tde`` with the passphrase on standard input, and checks its exit code."""
    program = Path(sys.executable).with_name("tde")
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PG", "TDE_"))}

    def run(*arguments, exit_code=0):
        result = subprocess.run(
            [program, *map(str, arguments)],
            input=PASSPHRASE.decode(),
            capture_output=True,
            text=True,
            env=environment,
            timeout=120,
        )
        assert result.returncode == exit_code, result.stdout + result.stderr
        return result

    return run
