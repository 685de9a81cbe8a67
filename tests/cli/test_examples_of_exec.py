"""The examples in the help of `tde pg exec`, typed as they are shown there."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import typer

from tde.cli.pg.app import app


def examples() -> dict[str, str]:
    """Return the commands of the help by program, in their order."""
    command = typer.main.get_command(app).commands["exec"]
    lines = re.findall(r"^\[dim\]\$\[/dim\] (.+)$", command.epilog, re.MULTILINE)
    return {line.split()[5]: line for line in lines}


def test_every_example_works(encrypted_cluster_factory, binaries, os_user_tmp_path):
    made = encrypted_cluster_factory(binaries)
    made.keystore.enable_auto_open()
    parameters = made.cluster.connection_parameters()
    here = {
        "/srv/pg/main": str(made.data_directory),
        "/srv/backup": str(os_user_tmp_path / "backup"),
        "-h /tmp": f"-h {parameters['host']} -p {parameters['port']} -U {parameters['user']}",
    }
    shown = {}
    for program, line in examples().items():
        if program == "pg_checksums":
            made.cluster.stop()
        for named, meant in here.items():
            line = line.replace(named, meant)
        command = [Path(sys.executable).with_name("tde"), *line.split()[1:]]
        run = subprocess.run(command, capture_output=True, text=True, timeout=120)
        shown[program] = run.stdout
        assert run.returncode == 0, f"{line}\n{run.stderr}"
    assert shown.keys() == {"pg_waldump", "pg_basebackup", "pg_checksums"}
    assert shown["pg_waldump"].count("rmgr: ") == 20
    assert (os_user_tmp_path / "backup" / "PG_VERSION").exists()
    assert "Bad checksums:  0" in shown["pg_checksums"]
