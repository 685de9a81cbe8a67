"""What systemd does for units of Debian's clusters, as far as a server sees it, without systemd.

A stand-in for systemctl(1), which pg_ctlcluster and others find where they look for it: it reads
the drop-in of a unit, gives the credential to its user in a directory of its own, starts it with
an environment of its own, and takes the credential away when it stops.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

SYSTEMCTL = Path("/usr/bin/systemctl")
DROP_INS = Path("/etc/systemd/system")
CREDENTIALS = Path("/run/credentials")
COMMON = Path("/etc/postgresql-common")


def enter_units(place: Path) -> None:
    """Let this process and its children see a machine with systemd; its mounts are its own.

    Args:
        place: an empty directory.
    """
    common = place / "common"
    shutil.copytree(COMMON, common, symlinks=True)
    (place / "drop-ins").mkdir()
    systemctl = place / "systemctl"
    code = "from tests.postgres.service import units; units.main()"
    checkout = Path(__file__).parents[3]
    systemctl.write_text(f'#!/bin/sh\ncd {checkout}\nexec {sys.executable} -c "{code}" "$@"\n')
    systemctl.chmod(0o755)
    for source, target in (
        (common, COMMON),
        (place / "drop-ins", DROP_INS),
        (systemctl, SYSTEMCTL),
    ):
        subprocess.run(["mount", "--bind", source, target], check=True)
    # pg_ctlcluster asks for this directory.
    subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", "/run"], check=True)
    for directory in (Path("/run/systemd/system"), Path("/run/postgresql"), CREDENTIALS):
        directory.mkdir(parents=True)
    shutil.chown("/run/postgresql", "postgres", "postgres")


def main() -> None:
    """Do what systemctl is asked for, if it is about a cluster."""
    words = [word for word in sys.argv[1:] if not word.startswith("-")]
    if len(words) < 2:
        return
    verb, unit = words[0], words[1].removesuffix(".service") + ".service"
    cluster = unit.removeprefix("postgresql@").removesuffix(".service")
    if verb in ("stop", "restart"):
        _pg_ctlcluster(unit, cluster, "stop")
        shutil.rmtree(CREDENTIALS / unit, ignore_errors=True)
    if verb in ("start", "restart"):
        _give_credential(unit)
        _pg_ctlcluster(unit, cluster, "start")
    if verb == "is-active":
        sys.exit(0 if (CREDENTIALS / unit).exists() else 3)


def _pg_ctlcluster(unit: str, cluster: str, verb: str) -> None:
    directory = CREDENTIALS / unit
    environment = {"PATH": "/usr/bin:/bin", "CREDENTIALS_DIRECTORY": str(directory)}
    as_user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups"]
    command = ["/usr/bin/pg_ctlcluster", "--skip-systemctl-redirect", cluster, verb]
    done = subprocess.run([*as_user, *command], env=environment, cwd="/")
    if done.returncode != 0:
        sys.exit(done.returncode)


def _give_credential(unit: str) -> None:
    settings = (DROP_INS / f"{unit}.d" / "tde.conf").read_text()
    assert re.search("^User=postgres$", settings, re.MULTILINE)
    ((name, source),) = re.findall("^LoadCredential=(.*):(.*)$", settings, re.MULTILINE)
    directory = CREDENTIALS / unit
    directory.mkdir(mode=0o700)
    shutil.copy(source, directory / name)
    for path in (directory, directory / name):
        shutil.chown(path, "postgres", "postgres")
    (directory / name).chmod(0o400)
