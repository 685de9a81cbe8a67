"""What a container has of its own: mounts, process numbers, a keystore that is read-only."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).parents[3] / "docs" / "examples" / "container"
KEYSTORE = Path("/run/keystore")
DATA = Path("/var/lib/postgresql/data")

# What the image's entrypoint does with PostgreSQL's programs, and no more.
_ENTRYPOINT = """#!/bin/bash
set -eu
if [ "$(id -u)" = 0 ]; then
    chown postgres "$PGDATA"
    chmod 700 "$PGDATA"
    exec gosu postgres "$BASH_SOURCE" "$@"
fi
if [ ! -s "$PGDATA/PG_VERSION" ]; then
    initdb --username=postgres --pwfile=<(printf '%s\\n' "$POSTGRES_PASSWORD") --no-sync
    pg_ctl -D "$PGDATA" -o "-c listen_addresses='' -p 5432" -w start
    psql -v ON_ERROR_STOP=1 --no-psqlrc -U postgres -c "CREATE DATABASE shop"
    pg_ctl -D "$PGDATA" -m fast -w stop
fi
exec "$@"
"""
_GOSU = '#!/bin/sh\nu=$1; shift\nexec setpriv --reuid="$u" --regid="$u" --init-groups "$@"\n'


def _mount(*words: object) -> None:
    subprocess.run(["mount", *map(str, words)], check=True, capture_output=True)


def _write(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


def run(place: Path, keystore: Path, bindir: Path) -> None:
    """Become the entrypoint; this process has mounts of its own already.

    Args:
        place: an empty directory.
        keystore: made as the page says; it is mounted read-only.
    """
    postgres = pwd.getpwnam("postgres")
    programs = place / "programs"
    _mount("-t", "tmpfs", "-o", "mode=755", "tmpfs", place)
    programs.mkdir()
    _write(programs / "docker-entrypoint.sh", _ENTRYPOINT)
    _write(programs / "gosu", _GOSU)
    shutil.copy(EXAMPLES / "tde-entrypoint.sh", programs)
    _mount("-t", "tmpfs", "-o", "mode=755", "tmpfs", "/run")
    KEYSTORE.mkdir()
    _mount("--bind", keystore, KEYSTORE)
    _mount("-o", "remount,bind,ro", KEYSTORE)
    _mount("-t", "tmpfs", "-o", "mode=755", "tmpfs", "/var/lib/postgresql")
    for directory in (DATA, Path("/run/tde"), Path("/run/postgresql")):
        directory.mkdir()
        os.chown(directory, postgres.pw_uid, postgres.pw_gid)
    environment = {
        "PATH": f"{programs}:{Path(sys.executable).parent}:{bindir}:/usr/bin:/bin",
        "PGDATA": str(DATA),
        "POSTGRES_PASSWORD": "of the image",
        "TDE_KEYSTORE": str(KEYSTORE),
    }
    # The directory of the image's servers, which those of the wheel are not built with.
    settings = ["listen_addresses=", "fsync=off", "unix_socket_directories=/run/postgresql"]
    command = ["tde-entrypoint.sh", "postgres"]
    command += [word for setting in settings for word in ("-c", setting)]
    os.execve(programs / "tde-entrypoint.sh", command, environment)
