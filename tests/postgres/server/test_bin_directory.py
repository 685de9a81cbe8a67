"""Directories made by `tde pg install-bin`, used as a DBA's scripts use PostgreSQL's own."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tde.algorithms import Algorithm
from tde.errors import ClusterKeystoreError, TdeError
from tde.keystore import Keystore, inspect_keystore, read_key_log
from tde.postgres import PostgresBinaries, Scope, install_bin_directory
from tde.postgres.cluster.bin_directory import refresh_bin_directory
from tde.postgres.cluster.keymap import KeySource, map_key, read_map
from tde.postgres.cluster.marker import read_marker
from tde.postgres.server.os_user import run_as
from tde.postgres.server.reachable import reachable_binaries
from tests.keystore.cheap_passphrase import PASSPHRASE
from tests.postgres.programs import Programs

CANARY = "row-behind-a-program"


@pytest.fixture
def programs(binaries, keystore_factory, os_user, os_user_tmp_path):
    keystore = keystore_factory("ks")
    keystore.enable_auto_open()
    made = install_bin_directory(
        os_user_tmp_path / "bin", binaries, os_user, keystore=keystore, algorithm=Algorithm.AES128
    )
    programs = Programs(made.path, os_user_tmp_path, os_user)
    yield programs
    for pidfile in os_user_tmp_path.glob("*/postmaster.pid"):
        programs.run("pg_ctl", "stop", "-m", "immediate", "-D", pidfile.parent)


def holds_canary(directory: Path) -> bool:
    files = (path for path in directory.rglob("*") if path.is_file())
    return any(CANARY.encode() in path.read_bytes() for path in files)


def stock_crashes(programs: Programs, binaries: PostgresBinaries, *command: object) -> bool:
    """Whether PostgreSQL's own program ends with a signal, as the wheel's pg_verifybackup of 18."""
    program = reachable_binaries(binaries, programs.os_user).program(str(command[0]))
    return run_as(programs.os_user, [program, *map(str, command[1:])]).returncode < 0


def test_every_program_works_on_a_cluster_of_its_initdb(
    programs: Programs, binaries: PostgresBinaries, os_user_tmp_path: Path
) -> None:
    data = os_user_tmp_path / "data"
    programs.run("initdb", "-N", "-k", "-A", "trust", data)
    programs.start(data)
    programs.sql(f"CREATE TABLE t AS SELECT '{CANARY}' FROM generate_series(1, 1000)")
    programs.sql("CHECKPOINT")
    programs.sql("SELECT pg_switch_wal()")
    assert not holds_canary(data)
    backup = os_user_tmp_path / "backup"
    programs.run("pg_basebackup", "-D", backup, "-X", "stream", "-c", "fast")
    if not stock_crashes(programs, binaries, "pg_verifybackup", "--no-parse-wal", backup):
        programs.run("pg_verifybackup", backup)
    assert not holds_canary(backup)
    programs.run("pg_ctl", "restart", "-w", "-D", data, "-l", f"{data}.log")
    programs.run("pg_ctl", "stop", "-w", "-D", data)
    assert "Bad checksums:  0" in programs.run("pg_checksums", "--check", data)
    segment = min(path.name for path in (data / "pg_wal").iterdir() if len(path.name) == 24)
    assert "rmgr: " in programs.run("pg_waldump", "-n", "2", data / "pg_wal" / segment)
    programs.run("pg_resetwal", "-f", "-D", data)
    programs.start(data)
    assert programs.sql("SELECT count(*) FROM t") == "1000"
    programs.run("pg_ctl", "stop", "-D", data)
    # The backup is a cluster of its own, with the keys of the same keystore.
    programs.start(backup)
    assert programs.sql("SELECT count(*) FROM t") == "1000"


def test_programs_start_with_closed_standard_descriptors(
    programs: Programs, os_user_tmp_path: Path
) -> None:
    data = os_user_tmp_path / "data"
    programs.run("initdb", "-N", "-A", "trust", data)
    start = f'exec "$0" start -w -s -D {data} -l {data}.log -o "$1" <&- >&- 2>&-'
    options = f"-k {os_user_tmp_path} -h ''"
    result = run_as(programs.os_user, ["sh", "-c", start, programs.directory / "pg_ctl", options])
    assert result.returncode == 0, Path(f"{data}.log").read_text()


def test_pg_ctl_creates_an_encrypted_cluster_too(programs: Programs, os_user_tmp_path: Path):
    data = os_user_tmp_path / "data"
    programs.run("pg_ctl", "initdb", "-D", data, "-o", "-N -A trust")
    assert read_marker(data).has_map
    assert map_of(programs, data) == {}
    programs.start(data)
    location = os_user_tmp_path / "space"
    subprocess.run(["install", "-d", "-m", "700", location], check=True)
    if programs.os_user is not None:
        os.chown(location, programs.os_user.uid, programs.os_user.gid)
    programs.sql(f"CREATE TABLESPACE space LOCATION '{location}'")
    programs.sql(f"CREATE TABLE t TABLESPACE space AS SELECT '{CANARY}' FROM generate_series(1, 9)")
    programs.sql("CHECKPOINT")
    assert not holds_canary(location)
    oid = int(programs.sql("SELECT oid FROM pg_tablespace WHERE spcname = 'space'"))
    assert map_of(programs, data) == {oid: KeySource.DERIVED}


def map_of(programs: Programs, data: Path) -> dict[int, KeySource]:
    """Return where the keys of tablespaces come from, by a map that its keystore authenticates."""
    with Keystore.open(programs.sockets / "ks", PASSPHRASE) as keystore:
        entries = read_map(data, keystore.uuid, map_key(keystore)).entries
    return {oid: entry.source for oid, entry in entries.items()}


def test_pg_rewind_takes_an_old_primary_back(programs: Programs, os_user_tmp_path: Path) -> None:
    primary, standby = os_user_tmp_path / "primary", os_user_tmp_path / "standby"
    programs.run("initdb", "-N", "-k", "-A", "trust", primary)
    programs.start(primary)
    programs.sql("CREATE TABLE t(a text)")
    programs.run("pg_basebackup", "-D", standby, "-X", "stream", "-c", "fast")
    # What only the old primary has must be gone after the rewind.
    programs.sql(f"INSERT INTO t SELECT '{CANARY}' FROM generate_series(1, 2000)")
    programs.run("pg_ctl", "stop", "-D", primary)
    (standby / "standby.signal").touch()
    programs.start(standby)
    programs.run("pg_ctl", "promote", "-w", "-D", standby)
    programs.sql("INSERT INTO t VALUES ('of the new primary')")
    programs.run("pg_ctl", "stop", "-D", standby)
    output = programs.run("pg_rewind", "--target-pgdata", primary, f"--source-pgdata={standby}")
    assert "Done!" in output
    assert not holds_canary(primary)
    programs.start(primary)
    assert programs.sql("SELECT a FROM t") == "of the new primary"


@pytest.mark.parametrize("mode", ["--copy", "--link"])
@pytest.mark.parametrize("old", [pytest.param("oldest", marks=pytest.mark.slow), "previous"])
def test_pg_upgrade_does_as_the_stock_programs_do(
    postgres_installations, keystore_factory, os_user, os_user_tmp_path: Path, old: str, mode: str
) -> None:
    installed = list(postgres_installations.values())
    if len(installed) < (2 if old == "oldest" else 3):
        pytest.skip("an upgrade needs a second major version of PostgreSQL, and this one a third")
    versions = installed[0 if old == "oldest" else -2], installed[-1]
    keystore = keystore_factory("ks")
    keystore.enable_auto_open()
    failures = []
    for name, chosen in (("stock", None), ("encrypted", keystore)):
        directory = os_user_tmp_path / name
        directory.mkdir()
        if os_user is not None:
            os.chown(directory, os_user.uid, os_user.gid)
        programs = [
            Programs(
                install_bin_directory(
                    directory / f"bin-{binaries.major}", binaries, os_user, keystore=chosen
                ).path,
                directory,
                os_user,
            )
            for binaries in versions
        ]
        failures.append(upgrade(*programs, directory, mode))
    # A minor release may make clusters that another major version's pg_upgrade does not know yet.
    assert failures[1] == failures[0]


def upgrade(old: Programs, new: Programs, directory: Path, mode: str) -> list[str]:
    """Upgrade a cluster and check its content; return what pg_upgrade says when it cannot."""
    encrypted = (new.directory / "tde-bin.conf").exists()
    before, after = directory / "before", directory / "after"
    options = ("-N", "-k", "-A", "trust", "--locale=C", "-E", "UTF8", "-D")
    old.run("initdb", *options, before)
    old.start(before)
    old.sql(f"CREATE TABLE t AS SELECT '{CANARY}' AS v FROM generate_series(1, 1000)")
    old.sql("SELECT lo_from_bytea(0, 'large object')")
    old.run("pg_ctl", "stop", "-D", before)
    new.run("initdb", *options, after)
    # pg_upgrade starts the servers of both through the programs of these directories.
    clusters = ("-d", before, "-D", after, "-b", old.directory, "-B", new.directory)
    output = new.run("pg_upgrade", *clusters, "-s", directory, mode, exit_code=None)
    if "*failure*" in output:
        return failure(output, after)
    assert holds_canary(after) is not encrypted
    new.start(after)
    try:
        assert new.sql("SELECT count(*), max(v) FROM t") == f"1000|{CANARY}"
        large_object = "SELECT convert_from(lo_get(oid), 'UTF8') FROM pg_largeobject_metadata"
        assert new.sql(large_object) == "large object"
    finally:
        new.run("pg_ctl", "stop", "-m", "immediate", "-D", after)
    return []


def failure(output: str, after: Path) -> list[str]:
    """Return pg_upgrade's steps and the errors in its logs, without what differs in each run."""
    said = output.split("Consult the last few lines")[0].splitlines()
    for log in sorted(after.glob("pg_upgrade_output.d/*/log/*.log")):
        said += [line for line in log.read_text().splitlines() if ": error:" in line]
    return said


def test_stock_programs_plain_clusters_and_other_keystores_are_told_apart(
    programs: Programs, binaries: PostgresBinaries, os_user_tmp_path: Path, keystore_factory
) -> None:
    data = os_user_tmp_path / "data"
    programs.run("initdb", "-N", "-A", "trust", data)
    stock = Programs(
        reachable_binaries(binaries, programs.os_user).bindir, os_user_tmp_path, programs.os_user
    )
    stock.run("pg_ctl", "start", "-w", "-D", data, "-l", f"{data}.log", exit_code=1)
    assert "tde-start-this-cluster-with" in Path(f"{data}.log").read_text()
    # A cluster without encryption stays one.
    plain = os_user_tmp_path / "plain"
    stock.run("initdb", "-N", "-A", "trust", plain)
    programs.start(plain)
    programs.sql(f"CREATE TABLE t AS SELECT '{CANARY}'")
    programs.sql("CHECKPOINT")
    assert holds_canary(plain)
    # The cluster of another keystore is refused by name.
    other = keystore_factory("other")
    marker = data / "tde.json"
    marker.write_text(marker.read_text().replace(keystore_of(programs).uuid.hex, other.uuid.hex))
    output = programs.run("pg_ctl", "start", "-D", data, exit_code=1)
    assert "belongs to another keystore" in output


def keystore_of(programs: Programs):
    return inspect_keystore(programs.sockets / "ks")


def test_information_needs_no_keys(programs: Programs) -> None:
    (programs.sockets / "ks" / "auto-open.key").unlink()
    assert "PostgreSQL" in programs.run("postgres", "--version")
    assert "initdb" in programs.run("initdb", "--help")
    programs.run("pg_ctl", "status", "-D", programs.sockets / "missing", exit_code=4)
    output = programs.run("initdb", "-D", programs.sockets / "data", exit_code=1)
    assert "does not open by itself" in output
    assert f"auto-open enable --keystore {programs.sockets / 'ks'}" in output
    assert not (programs.sockets / "data").exists()


@pytest.mark.parametrize(
    "damage", ["mode", "bit", "short", "other"], ids=lambda damage: f"auto-open-{damage}"
)
def test_a_damaged_auto_open_file_is_named(
    programs: Programs, damage: str, keystore_factory
) -> None:
    path = programs.sockets / "ks" / "auto-open.key"
    content = bytearray(path.read_bytes())
    if damage == "mode":
        path.chmod(0o644)
    elif damage == "short":
        path.write_bytes(content[:-1])
    elif damage == "bit":
        content[100] ^= 1
        path.write_bytes(content)
    else:
        content[0] ^= 1
        path.write_bytes(content)
    output = programs.run("initdb", "-D", programs.sockets / "data", exit_code=1)
    assert "auto-open.key" in output
    assert not (programs.sockets / "data").exists()


def test_installation_is_refused_with_a_reason(
    any_binaries, keystore_factory, os_user, os_user_tmp_path
) -> None:
    keystore = keystore_factory("ks")
    with pytest.raises(ClusterKeystoreError, match="does not open by itself"):
        install_bin_directory(os_user_tmp_path / "bin", any_binaries, os_user, keystore=keystore)
    foreign = os_user_tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "psql").write_text("mine")
    with pytest.raises(TdeError, match="not made by tde"):
        install_bin_directory(foreign, any_binaries, os_user, keystore=None)


def test_a_directory_for_plain_clusters_is_updated_to_one_with_keys(
    any_binaries, keystore_factory, os_user, os_user_tmp_path
) -> None:
    directory = os_user_tmp_path / "bin"
    made = install_bin_directory(directory, any_binaries, os_user, keystore=None)
    assert made.with_keys == ()
    assert (directory / "initdb").is_symlink()
    keystore: Keystore = keystore_factory("ks")
    keystore.enable_auto_open()
    for _ in range(2):
        made = install_bin_directory(
            directory, any_binaries, os_user, keystore=keystore, scope=Scope.TABLESPACES
        )
        assert "postgres" in made.with_keys
        assert not (directory / "initdb").is_symlink()
        assert (directory / "psql").is_symlink()
    assert '"scope": "tablespaces"' in (directory / "tde.json").read_text()


def test_another_release_brings_its_programs_and_keeps_the_settings(
    programs: Programs, os_user_tmp_path: Path
) -> None:
    directory = programs.directory
    before = {path.name: path.read_bytes() for path in directory.iterdir()}
    for name in ("postgres", "libtde_io.so", "guard.conf"):
        (directory / name).unlink()
        (directory / name).write_bytes(b"of another release")
    # A keystore that cannot be opened now is no reason to start with old programs at night.
    (programs.sockets / "ks").rename(os_user_tmp_path / "elsewhere")
    made = refresh_bin_directory(directory)
    assert {path.name: path.read_bytes() for path in directory.iterdir()} == before
    assert "postgres" in made.with_keys
    assert "psql" in made.linked
    assert os.access(directory / "postgres", os.X_OK)


def test_what_stands_for_nothing_is_not_brought_up_to_date(
    programs: Programs, os_user_tmp_path: Path
) -> None:
    settings = programs.directory / "tde-bin.conf"
    lines = settings.read_text().splitlines()
    gone = [line if not line.startswith("bindir=") else "bindir=/gone" for line in lines]
    settings.write_text("\n".join(gone) + "\n")
    with pytest.raises(TdeError, match="stands for /gone, where there is no PostgreSQL"):
        refresh_bin_directory(programs.directory)
    with pytest.raises(TdeError, match="was not made for encrypted clusters"):
        refresh_bin_directory(os_user_tmp_path)


def test_the_key_log_tells_of_the_keys_that_the_directory_uses(
    any_binaries, keystore_factory, os_user_tmp_path, tde_command
):
    keystore = keystore_factory("told")
    keystore.enable_auto_open()
    arguments = ("-k", keystore.path, "--bindir", any_binaries.bindir)
    first = ("--passphrase-fd", "0")  # It makes the first keys of the keystore.
    tde_command("pg", "install-bin", os_user_tmp_path / "told-bin", *arguments, *first)
    # From then on it opens by itself, as for the programs.
    tde_command("pg", "install-bin", os_user_tmp_path / "told-bin", *arguments)
    told = [(entry.event, entry.who["command"]) for entry in read_key_log(keystore.path).entries]
    assert ("open keystore", "tde pg install-bin") in told
