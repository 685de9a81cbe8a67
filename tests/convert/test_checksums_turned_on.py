"""tde pg encrypt turns data checksums on as PostgreSQL's own pg_checksums does, bit by bit."""

from __future__ import annotations

import json
import os
import shutil

import pytest

from tde.errors import ConversionError
from tde.postgres import Cluster, Scope, decrypt_cluster, encrypt_cluster
from tde.postgres.server.control import read_control_data
from tde.postgres.server.os_user import run_as
from tests.conftest import RunningCluster
from tests.convert.conversions import (
    ROWS,
    content,
    encrypted_form,
    make_original,
    with_stock_checksums,
    without_ours,
)
from tests.convert.interruptions import (
    Killer,
    is_finished,
)
from tests.postgres.canaries import CANARY


@pytest.fixture(scope="module")
def original(module_cluster_factory, binaries):
    """A stopped cluster that has never had checksums, on the oldest and the newest version."""
    made = make_original(module_cluster_factory, binaries, data_checksums=False)
    first = made.made.data_directory / "base/5/1259"
    # A second segment file, whose checksums begin to count at block 131072, and a temporary table
    # of a backend that was killed.
    for name in ("99999.1", "t7_88888"):
        shutil.copyfile(first, first.with_name(name))
        os.chown(first.with_name(name), first.stat().st_uid, first.stat().st_gid)
    return made


@pytest.fixture(scope="module")
def with_checksums(original):
    """What PostgreSQL's own pg_checksums --enable makes of it."""
    return with_stock_checksums(original.made.cluster)


def check_with_stock_program(cluster: Cluster) -> str:
    """Run PostgreSQL's own pg_checksums on a plain cluster."""
    program = cluster.binaries.program("pg_checksums")
    run = run_as(cluster.os_user, [program, "--check", "-D", cluster.data_directory])
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout


def has_checksums(cluster: Cluster) -> bool:
    return read_control_data(
        cluster.data_directory, cluster.binaries, cluster.os_user
    ).data_checksums


def test_the_commands_give_every_page_its_checksum(
    original, copy, with_checksums, keystore_factory, tde_command
):
    data = copy.data_directory
    keystore = keystore_factory()
    programs = ["--bindir", copy.binaries.bindir]
    secret = ["--passphrase-fd", 0]
    shown = tde_command("pg", "encrypt", data, "-k", keystore.path, *secret, *programs, "--json")
    stopped = tde_command("pg", "status", "-D", data, *programs, "--json", exit_code=3)
    assert json.loads(stopped.stdout)["data_checksums"] is True
    summary = json.loads(shown.stdout)
    assert (summary["checksums_turned_on"], summary["data_checksums"]) == (True, True)
    assert summary["invalid_pages"] == 0
    encrypted = content(data)
    assert without_ours(encrypted) == without_ours(encrypted_form(with_checksums, keystore))

    check = ["pg_checksums", "--check", "-D", data]
    checked = tde_command("pg", "exec", "-D", data, *secret, *programs, *check).stdout
    assert "Bad checksums:  0" in checked

    made = RunningCluster(copy, keystore)
    made.start()
    assert made.query("SHOW data_checksums") == [("on",)]
    assert made.query("SELECT count(*), max(x) FROM t") == [(ROWS, CANARY.decode())]
    made.query("UPDATE t SET n = n + 1")
    copy.stop()

    back = tde_command("pg", "decrypt", data, *secret, *programs, "--json")
    assert json.loads(back.stdout)["checksums_turned_on"] is False
    stock = check_with_stock_program(copy)
    assert "Bad checksums:  0" in stock
    assert "Data checksum version: 1" in stock


def test_the_summary_says_it_in_one_line(original, copy, keystore_factory, tde_command):
    keys = ["-k", keystore_factory().path, "--passphrase-fd", 0, "--bindir", copy.binaries.bindir]
    shown = tde_command("pg", "encrypt", copy.data_directory, *keys).stdout
    assert shown.splitlines().count("Data checksums were off, and are on now") == 1
    tde_command("pg", "decrypt", copy.data_directory, *keys)
    keys[1] = keystore_factory("again").path
    shown = tde_command("pg", "encrypt", copy.data_directory, *keys).stdout
    assert "hecksums" not in shown  # They are on already, and nothing changes.


def test_no_checksums_leaves_every_bit(original, copy, keystore_factory, tde_command):
    before = content(copy.data_directory)
    keystore = keystore_factory()
    keys = ["-k", keystore.path, "--passphrase-fd", 0, "--bindir", copy.binaries.bindir]
    shown = tde_command("pg", "encrypt", copy.data_directory, *keys, "--no-checksums").stdout
    assert "Data checksums are off: damage to a block would not be noticed" in shown
    assert without_ours(content(copy.data_directory)) == without_ours(
        encrypted_form(before, keystore)
    )
    assert not has_checksums(copy)
    made = RunningCluster(copy, keystore)
    made.start()
    assert made.query("SHOW data_checksums") == [("off",)]
    assert made.query("SELECT count(*) FROM t") == [(ROWS,)]
    copy.stop()


def test_pages_of_plaintext_tablespaces_get_checksums_too(
    original, copy, with_checksums, keystore_factory
):
    """The server looks at the checksums of all tablespaces or of none."""
    keystore = keystore_factory()
    arguments = {"scope": Scope.TABLESPACES, "tablespaces": [original.tablespace]}
    twin = copy.data_directory / "base/5/1259"
    (copy.data_directory / "snapshot").hardlink_to(twin)
    with pytest.raises(ConversionError, match=r"1259 has 2 names \(hard links\)"):
        encrypt_cluster(copy, keystore, **arguments)
    (copy.data_directory / "snapshot").unlink()

    summary = encrypt_cluster(copy, keystore, **arguments)
    assert summary.checksums_turned_on
    assert summary.plaintext_files > 100
    assert without_ours(content(copy.data_directory)) == without_ours(
        encrypted_form(with_checksums, keystore)
    )
    made = RunningCluster(copy, keystore)
    made.start()
    assert made.query("SELECT count(*), max(x) FROM t") == [(ROWS, CANARY.decode())]
    assert made.query("SELECT count(*) FROM pgbench_history") == [(100,)]
    copy.stop()
    decrypt_cluster(copy, keystore)
    assert "Bad checksums:  0" in check_with_stock_program(copy)


def kill_and_resume(original, with_checksums, keystore_factory, conversions: int) -> None:
    """Encrypt copies, kill -9 each of them some times, and compare what the last run made."""
    kills = 0
    for number in range(conversions):
        made = original.copy(f"killed-{number}")
        keystore = keystore_factory(f"killed-{number}-keystore")
        killer = Killer(made, keystore.path, number)
        programs = ("--bindir", str(made.binaries.bindir))
        for _ in range(4):
            if killer.run("encrypt", *programs, kill=True) or is_finished(made, "encrypt"):
                break
        if not is_finished(made, "encrypt"):
            assert killer.run("encrypt", *programs, kill=False)
        kills += killer.kills
        assert without_ours(content(made.data_directory)) == without_ours(
            encrypted_form(with_checksums, keystore)
        ), f"copy {number}, {killer.kills} kills"
        decrypt_cluster(made, keystore)
        assert "Bad checksums:  0" in check_with_stock_program(made)
        shutil.rmtree(made.data_directory)
    assert kills >= conversions


def test_a_killed_conversion_is_finished(original, with_checksums, keystore_factory):
    kill_and_resume(original, with_checksums, keystore_factory, 2)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_conversions_killed_many_times_are_finished(original, with_checksums, keystore_factory):
    kill_and_resume(original, with_checksums, keystore_factory, 15)
