"""A program that has the keys of one cluster is told to work on another one."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tde.postgres import run_program
from tde.postgres.server import named_directory
from tde.postgres.server.named_directory import named_data_directory
from tests.keystore.cheap_passphrase import PASSPHRASE


def content(directory: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}


@pytest.fixture(params=["plain", "of another keystore"])
def other(request, any_binaries, encrypted_cluster_factory):
    """A cluster without checksums that the keys of the first one must not touch."""
    if request.param == "plain":
        made = encrypted_cluster_factory.plain(any_binaries, start=False)
    else:
        made = encrypted_cluster_factory(any_binaries, name="other", start=False)
    disable = ["--disable", "-D", str(made.data_directory)]
    run = run_program(
        any_binaries,
        "pg_checksums",
        disable,
        keystore=made.keystore,
        os_user=made.cluster.os_user,
    )
    assert run.returncode == 0, run.stderr
    return made


PROGRAMS = [
    ("pg_checksums", "--enable"),
    ("pg_checksums_ext", "--enable"),
    ("pg_resetwal", "-f"),
]


def test_a_program_changes_no_cluster_with_keys_of_another(
    other, any_binaries, encrypted_cluster_factory
):
    first = encrypted_cluster_factory(any_binaries, start=False)
    before = content(other.data_directory)
    for program, option in PROGRAMS:
        if not (any_binaries.bindir / program).exists():
            continue
        run = run_program(
            any_binaries,
            program,
            [option, "-D", str(other.data_directory)],
            keystore=first.keystore,
            os_user=first.cluster.os_user,
        )
        assert run.returncode != 0, run.stdout
        assert f"the cluster in {other.data_directory} is not encrypted with keystore" in run.stderr
        assert f"keystore {first.keystore.uuid}" in run.stderr
        assert "HINT: " in run.stderr
        assert content(other.data_directory) == before
    other.start()
    assert other.query("SELECT count(*) > 0 FROM pg_class") == [(True,)]


def tde_exec(*arguments: object, pgdata: Path, exit_code: int = 0) -> str:
    """Run ``tde pg exec`` in a shell that has PGDATA; what it printed."""
    run = subprocess.run(
        [Path(sys.executable).with_name("tde"), "pg", "exec", *map(str, arguments)],
        env={**os.environ, "PGDATA": str(pgdata)},
        input=PASSPHRASE.decode(),
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert run.returncode == exit_code, run.stdout + run.stderr
    return run.stdout + run.stderr


def test_exec_refuses_another_directory_and_passes_its_own_on(
    other, any_binaries, encrypted_cluster_factory
):
    first = encrypted_cluster_factory(any_binaries, start=False)
    first.keystore.close()
    data, theirs = first.data_directory, other.data_directory
    before = content(theirs)
    # No source of a passphrase is named: nobody is asked for one.
    for program in (
        *(("pg_checksums", "--enable", "-D"), ("pg_resetwal", "-f"), ("pg_ctl", "start", "-D")),
        *(("postgres", "--single", "-D"), ("pg_rewind", "--source-pgdata", data, "--target-pg")),
    ):
        said = tde_exec("-D", data, *program, theirs, pgdata=data, exit_code=5)
        assert f"would get the keys of {data} and work on {theirs}" in said
        assert "HINT: " in said
    wal = theirs / "pg_wal"
    segment = "000000010000000000000001"
    for reader in (
        *(("pg_verifybackup", theirs), ("pg_verifybackup", "-n", theirs)),
        *(("pg_waldump", "-p", theirs, segment), ("pg_waldump", "--path", wal, segment)),
    ):
        said = tde_exec("-D", data, *reader, pgdata=data, exit_code=5)
        assert f"would get the keys of {data} and work on {theirs}" in said
    # What PGDATA says is another cluster's business.
    keys = ("-D", data, "--passphrase-fd", 0)
    assert "Bad checksums:  0" in tde_exec(*keys, "pg_checksums", "--check", pgdata=theirs)
    assert content(theirs) == before


def test_exec_does_not_run_pg_upgrade(any_binaries, encrypted_cluster_factory):
    first = encrypted_cluster_factory(any_binaries, start=False)
    data = first.data_directory
    said = tde_exec("-D", data, "pg_upgrade", "--check", pgdata=data, exit_code=5)
    assert "tde pg install-bin" in said


@pytest.mark.parametrize(
    ("program", "arguments", "found"),
    [
        ("pg_checksums", ["--enable", "-D", "a"], "a"),
        ("pg_checksums", ["-eDa"], "a"),
        ("pg_checksums", ["-D", "a", "--pgdata=b"], "b"),
        ("pg_checksums", ["--pgd", "a", "-c"], "a"),
        ("pg_checksums", ["a", "-c", "-f", "16384"], "a"),
        ("pg_checksums", ["-f", "16384", "--", "a"], "a"),
        ("pg_checksums", ["-D", "a", "b"], "a"),
        ("pg_checksums", ["--help", "-D", "a"], None),
        ("pg_resetwal", ["-f", "-l", "000000010000000000000002", "a"], "a"),
        ("pg_rewind", ["--source-pgdata=b", "--target-pgdata", "a"], "a"),
        ("pg_ctl", ["-D", "a", "start", "-o", "-D b"], "a"),
        ("postgres", ["--single", "-D", "a", "template1"], "a"),
        ("postgres", ["-c", "x=-Db"], None),
        ("pg_waldump", ["-D", "a"], None),
        ("pg_waldump", ["-n", "1", "-p", "a", "-"], "a"),
        ("pg_waldump", ["a"], None),
        ("pg_verifybackup", ["-i", "b", "a"], "a"),
        ("pg_verifybackup", ["-w", "b"], None),
        ("pg_basebackup", ["-D", "a"], None),
    ],
)
def test_the_directory_is_found_as_the_program_finds_it(program, arguments, found):
    assert named_data_directory(program, arguments) == (None if found is None else Path(found))


def test_exec_makes_no_cluster_that_nothing_says_is_encrypted(
    any_binaries, encrypted_cluster_factory, tde_command, os_user_tmp_path
):
    """It made one with the keys of another, without marker and key map."""
    first = encrypted_cluster_factory(any_binaries, start=False)
    exec_ = ["pg", "exec", "-D", first.data_directory, "--passphrase-fd", "0", "--"]
    made = os_user_tmp_path / "made"
    for command in (
        ["initdb", "-D", made],
        ["initdb", "--no-sync", made],
        ["pg_ctl", "init", "-D", made],
        ["pg_ctl", "-D", made, "initdb"],
    ):
        refused = tde_command(*exec_, *command, exit_code=5)
        assert f"would make a cluster with the keys of {first.data_directory}" in refused.stderr
        assert "tde pg init" in refused.stderr
        assert not made.exists()
    tde_command(*exec_, "initdb", "--version")
    tde_command(*exec_, "initdb", "--sync-only", "-D", first.data_directory)


def test_the_launcher_in_c_knows_the_same_options():
    """Both find the data directory on a command line, each with a table of its own."""
    source = (Path(__file__).parents[3] / "c_ext/program/arguments.c").read_text()
    tables = re.findall(
        r'\{"(\w+)", TDE_NEED_CLUSTER,[^"]*"([^"]+)", (true|false), (?:"([\w-]+)"|NULL),'
        r"\s*\{([^}]*)\}\}",
        source,
    )
    found = {
        name: (
            set(re.findall(r"\w:?", short.replace("-:", ""))),
            positional == "true",
            {*([directory] if directory else []), *re.findall(r'"([\w-]+)"', others)},
        )
        for name, short, positional, directory, others in tables
    }
    known = {
        name: (set(re.findall(r"\w:?", program.short)), program.positional, {*program.long})
        for name, program in named_directory._PROGRAMS.items()
    }
    assert found == known
