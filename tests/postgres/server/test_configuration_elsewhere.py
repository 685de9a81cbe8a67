"""Programs of `tde pg install-bin` for a cluster whose postgresql.conf is in another directory."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tde.postgres import install_bin_directory
from tde.postgres.server.os_user import run_as
from tests.postgres.programs import Programs


@pytest.fixture
def programs(any_binaries, keystore_factory, os_user, os_user_tmp_path):
    keystore = keystore_factory("ks")
    keystore.enable_auto_open()
    directory = os_user_tmp_path / "bin"
    install_bin_directory(directory, any_binaries, os_user, keystore=keystore)
    made = Programs(directory, os_user_tmp_path, os_user)
    yield made
    made.run("pg_ctl", "stop", "-m", "immediate", "-D", os_user_tmp_path / "data", exit_code=None)


@pytest.fixture
def configuration(os_user, os_user_tmp_path: Path) -> Path:
    """The directory of the configuration; it is empty."""
    directory = os_user_tmp_path / "etc"
    directory.mkdir()
    if os_user is not None:
        os.chown(directory, os_user.uid, os_user.gid)
    return directory


def test_the_end_of_a_long_line_sets_nothing(
    programs: Programs, configuration: Path, os_user_tmp_path: Path
) -> None:
    data = os_user_tmp_path / "data"
    programs.run("initdb", "-N", "-A", "trust", data)
    lines = (data / "postgresql.conf").read_text() + f"data_directory = '{data}'\n"
    # Of whatever length the parts are in which it is read, one begins with blanks.
    lines += "#" + " " * 9000 + "data_directory = '/nowhere'\n"
    (configuration / "postgresql.conf").write_text(lines)
    hba = f"hba_file = '{data}/pg_hba.conf'\nident_file = '{data}/pg_ident.conf'\n"
    with (configuration / "postgresql.conf").open("a") as file:
        file.write(hba)
    options = f"-p 5432 -k {os_user_tmp_path} -h ''"
    log = os_user_tmp_path / "log"
    programs.run("pg_ctl", "start", "-w", "-D", configuration, "-o", options, "-l", log)
    assert programs.sql("SHOW data_directory") == str(data)


@pytest.mark.parametrize("name", ["tde.json", "postgresql.conf"])
def test_a_pipe_is_not_waited_for(programs: Programs, configuration: Path, name: str) -> None:
    os.mkfifo(configuration / name)
    command = [programs.directory / "pg_resetwal", "-n", "-D", configuration]
    result = run_as(programs.os_user, command, timeout=20)
    assert result.returncode == 1
    if name == "tde.json":
        assert f"could not read {configuration}/tde.json: Invalid argument" in result.stderr


def test_a_link_is_not_followed(programs: Programs, configuration: Path) -> None:
    (configuration / "tde.json").symlink_to(programs.directory / "tde.json")
    shown = programs.run("pg_resetwal", "-n", "-D", configuration, exit_code=1)
    assert f"could not read {configuration}/tde.json" in shown
