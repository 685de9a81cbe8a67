"""System calls that an old seccomp profile of a container forbids."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.keystore.cheap_passphrase import PASSPHRASE
from tests.postgres.programs import Programs

_X86 = {"statx": 332, "memfd_create": 319, "openat2": 437}
_NUMBERS = {"x86_64": _X86}.get(platform.machine(), {})

pytestmark = pytest.mark.skipif(not _NUMBERS, reason="the calls' numbers are not known here")


@pytest.fixture
def forbidding(tmp_path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs a command with one system call forbidden."""
    program = tmp_path / "forbid"
    source = Path(__file__).with_name("forbid.c")
    subprocess.run(["cc", "-Wall", "-Werror", source, "-o", program], check=True)

    def run(call: str, *command: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [program, str(_NUMBERS[call]), *map(str, command)],
            input=PASSPHRASE.decode(),
            capture_output=True,
            text=True,
            timeout=120,
            cwd="/",
            env={**os.environ, "COLUMNS": "200"},
        )

    return run


def start(made) -> list[object]:
    tde = Path(sys.executable).with_name("tde")
    options = f"-k {made.data_directory.parent} -c listen_addresses='' -c fsync=off"
    where = ("-D", made.data_directory, "--bindir", made.cluster.binaries.bindir)
    return [tde, "pg", "start", *where, "--passphrase-fd", 0, "-o", options]


@pytest.mark.parametrize("call", ["statx", "openat2"])
def test_a_server_works_where_a_call_is_forbidden(
    encrypted_cluster_factory, any_binaries, forbidding, call
):
    """Without statx it started, and ended in PANIC at its first write of WAL."""
    made = encrypted_cluster_factory(any_binaries, start=False)
    started = forbidding(call, *start(made))
    assert started.returncode == 0, started.stdout + started.stderr
    made.query("CREATE TABLE t AS SELECT n FROM generate_series(1, 10000) n")
    made.query("CHECKPOINT")
    assert made.query("SELECT count(*) FROM t") == [(10000,)]
    made.cluster.stop()
    made.start()
    assert made.query("SELECT sum(n) FROM t") == [(50005000,)]


def test_where_memfd_create_is_forbidden_the_message_says_so(
    encrypted_cluster_factory, any_binaries, forbidding
):
    made = encrypted_cluster_factory(any_binaries, start=False)
    started = forbidding("memfd_create", *start(made))
    assert started.returncode != 0
    assert "memfd_create is forbidden here" in started.stderr
    assert "seccomp" in started.stderr
    assert "Traceback" not in started.stderr
    assert made.cluster.pid is None


def test_a_stand_in_says_so_as_well(
    encrypted_cluster_factory, any_binaries, forbidding, tde_command, os_user
):
    made = encrypted_cluster_factory(any_binaries, start=False)
    assert made.keystore is not None
    made.keystore.enable_auto_open()
    directory = made.data_directory.parent / "bin"
    where = ("-k", made.keystore.path, "--bindir", any_binaries.bindir)
    tde_command("pg", "install-bin", directory, *where)
    programs = Programs(directory, made.data_directory.parent, os_user)
    user = (
        () if os_user is None else ("/usr/bin/setpriv", f"--reuid={os_user.uid}", "--clear-groups")
    )
    done = forbidding(
        "memfd_create", *user, directory / "pg_ctl", "-D", made.data_directory, "start"
    )
    assert done.returncode == 1
    assert "could not hand over the keys: Operation not permitted" in done.stderr
    assert "memfd_create" in done.stderr
    assert "no server running" in programs.run(
        "pg_ctl", "status", "-D", made.data_directory, exit_code=3
    )
