"""An OpenSSL whose configuration leaves out what keys need: one line that says so, everywhere."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tde.postgres import install_bin_directory
from tde.postgres.server.os_user import run_as

BIN = Path(sys.executable).parent
CONFIGURATIONS = {
    "fips is wanted and missing": "alg_section = s\n[s]\ndefault_properties = fips=yes\n",
    "default is not activated": "providers = p\n[p]\nbase = b\n[b]\nactivate = 1\n",
}


@pytest.fixture(params=CONFIGURATIONS.values(), ids=CONFIGURATIONS)
def environment(request, os_user_tmp_path) -> dict[str, str]:
    file = os_user_tmp_path / "openssl.cnf"
    file.write_text(f"openssl_conf = all\n[all]\n{request.param}")
    return {**os.environ, "OPENSSL_CONF": str(file)}


def complaint(result: subprocess.CompletedProcess[str]) -> str:
    """Return the line that names the error, of a command that prints it and at most a hint."""
    assert result.returncode not in (0, 2), result.stdout
    error, *hints = result.stderr.strip().splitlines()
    assert all(hint.startswith("HINT: ") for hint in hints), result.stderr
    assert "OPENSSL_CONF" in result.stderr
    return error


def test_every_command_says_so_and_a_stopped_cluster_stays_one(
    encrypted_cluster_factory, any_binaries, environment
):
    made = encrypted_cluster_factory(any_binaries, start=False)
    made.keystore.enable_auto_open()
    data, keystore = made.data_directory, made.keystore.path

    def run(program: str, *arguments: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [BIN / program, *map(str, arguments)],
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
        )

    for arguments in (["pg", "start"], ["pg", "audit"], ["pg", "decrypt"]):
        error = complaint(run("tde", *arguments, "-D", data))
        assert error.startswith("tde: error: "), error
    if "default_properties" not in Path(environment["OPENSSL_CONF"]).read_text():
        assert "OpenSSL offers no" in complaint(run("tde-bench", "pages", "--quick"))
    # Of programs only the first line is ours; what follows is their own.
    executed = run("tde", "pg", "exec", "-D", data, "pg_checksums", "-c", "-D", data)
    assert executed.returncode == 1
    assert "OpenSSL " in executed.stderr.splitlines()[0]
    assert "Traceback" not in executed.stderr
    if run("tde", "keystore", "status", "-k", keystore).returncode == 0:
        shown = run("tde", "pg", "status", "-D", data)
        assert shown.returncode == 3
        assert "not running (shut down)" in shown.stdout
    made.start()


def test_programs_of_install_bin_say_so(
    keystore_factory, any_binaries, os_user, os_user_tmp_path, environment
):
    keystore = keystore_factory("ks")
    keystore.enable_auto_open()
    programs = install_bin_directory(
        os_user_tmp_path / "bin", any_binaries, os_user, keystore=keystore
    ).path
    data = os_user_tmp_path / "data"
    initdb = [programs / "initdb", "-N", "-A", "trust", data]
    assert complaint(run_as(os_user, initdb, environment=environment)).startswith("initdb: error: ")
    assert not data.exists()
    assert run_as(os_user, initdb).returncode == 0
    for program, *arguments in (["pg_ctl", "start", "-w", "-D", data], ["postgres", "-D", data]):
        result = run_as(os_user, [programs / program, *arguments], environment=environment)
        assert complaint(result).startswith(f"{program}: error: OpenSSL offers no ")
    # A file that is damaged is told as one.
    shutil.copy(keystore.path / "keystore.json", keystore.path / "auto-open.key")
    with (keystore.path / "auto-open.key").open("r+b") as file:
        file.truncate(136)
    damaged = run_as(os_user, [programs / "pg_ctl", "start", "-D", data])
    assert "is damaged" in damaged.stderr
    assert "OpenSSL" not in damaged.stderr
