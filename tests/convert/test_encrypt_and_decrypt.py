"""tde pg encrypt and tde pg decrypt on real clusters: every byte of the result."""

from __future__ import annotations

import json
import os
import shutil
import traceback
from pathlib import Path

import pytest

from tde.algorithms import Algorithm
from tde.convert.tablespace_names import resolve_tablespaces
from tde.errors import ConversionError
from tde.keystore import inspect_keystore
from tde.postgres import Cluster, Scope, audit, decrypt_cluster, encrypt_cluster, run_program
from tests.conftest import RunningCluster
from tests.convert.conversions import (
    ROWS,
    content,
    encrypted_form,
    make_user_tablespace,
    without_ours,
)
from tests.postgres.canaries import CANARY, files_with
from tests.postgres.tpcb import pgbench, tpcb_sums


def permissions(directory: Path) -> dict[str, tuple[int, int, int]]:
    found = {}
    for path in [directory, *directory.rglob("*")]:
        status = path.lstat()
        found[str(path.relative_to(directory))] = (status.st_mode, status.st_uid, status.st_size)
    return found


def test_a_server_works_on_an_encrypted_cluster_and_on_the_decrypted_one(
    module_cluster_factory, binaries_older_slow, os_user_tmp_path
):
    """On every version: bit by bit, and with a server in between."""
    factory, binaries = module_cluster_factory, binaries_older_slow
    made = factory.plain(binaries, name=f"whole-{binaries.major}")
    pgbench(made, "-i", "-s", "1", "-q")
    pgbench(made, "-n", "-t", "50", "-c", "2")
    made.query("CREATE EXTENSION amcheck") if has_amcheck(binaries) else None
    make_user_tablespace(made, os_user_tmp_path / "outside")
    made.cluster.stop()
    before, modes = content(made.data_directory), permissions(made.data_directory)
    keystore = factory.keystore(f"whole-{binaries.major}-keystore")

    seen: list[tuple[int, int]] = []
    summary = encrypt_cluster(made.cluster, keystore, progress=lambda *now: seen.append(now))
    assert seen[-1] == (summary.bytes, summary.bytes)
    assert summary.invalid_pages == 0
    assert not summary.resumed
    assert 0 < summary.bytes_written <= summary.bytes
    after = content(made.data_directory)
    assert without_ours(after) == without_ours(encrypted_form(before, keystore))
    assert files_with(CANARY, made.data_directory, os_user_tmp_path / "outside") == []

    made.keystore = keystore
    made.start()
    assert len(tpcb_sums(made)) == 1
    assert made.query("SELECT x FROM o") == [(CANARY.decode(),)]
    check_structure(made)
    pgbench(made, "-n", "-t", "50", "-c", "2")
    made.cluster.stop()

    assert decrypt_cluster(made.cluster, keystore).invalid_pages == 0
    made.keystore = None
    made.start()
    assert len(tpcb_sums(made)) == 1
    assert made.query("SELECT x FROM o") == [(CANARY.decode(),)]
    assert made.query("SELECT count(*) FROM pgbench_history") == [(200,)]
    check_structure(made)
    made.cluster.stop()
    now = permissions(made.data_directory)
    assert {name: modes[name][:2] for name in modes.keys() & now.keys()} == {
        name: now[name][:2] for name in modes.keys() & now.keys()
    }
    assert content(made.data_directory)["postgresql.conf"] == before["postgresql.conf"]
    assert not (made.data_directory / "tde_convert").exists()


def has_amcheck(binaries) -> bool:
    shared = binaries.bindir.parent / "share"
    places = [shared, Path(f"/usr/share/postgresql/{binaries.major}")]
    return any(list(place.glob("**/extension/amcheck.control")) for place in places)


def check_structure(cluster) -> None:
    """Run pg_amcheck where its extension is installed."""
    if not has_amcheck(cluster.cluster.binaries):
        return
    parameters = cluster.cluster.connection_parameters()
    run = run_program(
        cluster.cluster.binaries,
        "pg_amcheck",
        [
            *("-h", str(parameters["host"]), "-p", str(parameters["port"])),
            *("-U", str(parameters["user"]), "--heapallindexed", "postgres"),
        ],
        os_user=cluster.cluster.os_user,
        timeout=120,
    )
    assert run.returncode == 0, run.stdout + run.stderr


@pytest.mark.parametrize("algorithm", Algorithm)
def test_every_bit_is_as_expected_both_ways(original, copy, keystore_factory, algorithm):
    before = content(copy.data_directory)
    blocks = {p: p.stat().st_blocks for p in copy.data_directory.rglob("*")}
    keystore = keystore_factory()
    encrypt_cluster(copy, keystore, algorithm=algorithm, jobs=3)
    assert without_ours(content(copy.data_directory)) == without_ours(
        encrypted_form(before, keystore)
    )
    # Holes are still holes.
    assert {p: n for p, n in blocks.items() if p.stat().st_blocks > n + 16} == {}
    decrypt_cluster(copy, keystore)
    assert content(copy.data_directory) == before
    assert len(inspect_keystore(keystore.path).keys) == 4  # Backups still need them.


def test_scope_tablespaces_converts_wal_and_the_chosen_tablespaces(
    original, copy, keystore_factory
):
    before = content(copy.data_directory)
    keystore = keystore_factory()
    oids = resolve_tablespaces(copy.data_directory, ["secret"])
    assert oids == [original.tablespace]
    summary = encrypt_cluster(copy, keystore, scope=Scope.TABLESPACES, tablespaces=oids)
    assert summary.plaintext_files > 100
    after = content(copy.data_directory)
    assert without_ours(after) == without_ours(encrypted_form(before, keystore))
    changed = {name for name in before if after[name] != before[name]}
    changed -= {"postgresql.conf", "global/pg_control"}  # Which are settings, and a hidden state.
    assert all(name.startswith(("pg_wal/", "pg_tblspc/")) for name in changed)
    assert any(name.startswith("pg_tblspc/") for name in changed)
    decrypt_cluster(copy, keystore)
    assert content(copy.data_directory) == before


def test_a_server_on_a_cluster_with_one_encrypted_tablespace(original, copy, keystore_factory):
    keystore = keystore_factory()
    encrypt_cluster(
        copy, keystore, scope=Scope.TABLESPACES, tablespaces=[1664, original.tablespace]
    )
    made = RunningCluster(copy, keystore)
    made.start()
    protections = copy.status().protections
    assert protections["pg_default"] == "plaintext"
    assert protections["pg_global"] == protections["WAL"] == "AES-256-XTS"
    assert protections[str(original.tablespace)] == "AES-256-XTS"
    assert made.query("SELECT count(*), max(x) FROM t") == [(ROWS, CANARY.decode())]
    copy.stop()


def test_tablespaces_are_chosen_by_name_or_oid(original):
    directory = original.made.data_directory
    wanted = ["pg_default", "pg_global", str(original.tablespace), "secret"]
    assert resolve_tablespaces(directory, wanted) == [
        1663,
        1664,
        original.tablespace,
        original.tablespace,
    ]
    with pytest.raises(ConversionError, match='no tablespace "other"') as caught:
        resolve_tablespaces(directory, ["other"])
    assert "secret" in caught.value.remedy


def test_temporary_files_are_removed_as_the_server_would(original, copy, keystore_factory):
    directory = copy.data_directory
    for name in (
        "base/pgsql_tmp/pgsql_tmp1.0",
        "base/pgsql_tmp/pgsql_tmp2.0.fileset/0.0",
        "pg_wal/xlogtemp.77",
        "pg_notify/0000",
        "pg_replslot/slot/xid-740-lsn-0-1.spill",
    ):
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_bytes(CANARY)
    foreign = directory / "base/pgsql_tmp/notes"
    foreign.write_bytes(b"mine")
    if os.geteuid() == 0:
        for path in directory.rglob("*"):
            os.chown(path, directory.stat().st_uid, directory.stat().st_gid)
    summary = encrypt_cluster(copy, keystore_factory())
    assert summary.removed_files == 5
    assert len(summary.warnings) == 1
    assert "base/pgsql_tmp/notes" in summary.warnings[0]
    assert foreign.read_bytes() == b"mine"
    assert files_with(CANARY, directory) == []


def test_copies_inside_the_data_directory_stay_as_they_are(original, copy, keystore_factory):
    """An archive of WAL has to fit the cluster; a copy of a cluster is not the cluster."""
    directory = copy.data_directory
    segment = next((directory / "pg_wal").glob("0000000*"))
    for name, source in {
        f"archive/{segment.name}": segment,
        "old/base/5/1259": directory / "base/5/1259",
        "base/5/16384.notes": directory / "base/5/1259",
        os.fsdecode(b"log/f\xe4lle"): directory / "PG_VERSION",
    }.items():
        target = directory / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
    if os.geteuid() == 0:
        for path in directory.rglob("*"):
            os.chown(path, directory.stat().st_uid, directory.stat().st_gid)
    plain = (directory / "base/5/1259").read_bytes()
    summary = encrypt_cluster(copy, keystore_factory())
    assert (directory / "old/base/5/1259").read_bytes() == plain
    assert (directory / "base/5/16384.notes").read_bytes() == plain
    assert (directory / "archive" / segment.name).read_bytes() == segment.read_bytes()
    assert len(summary.warnings) == 3
    unknown = next(warning for warning in summary.warnings if "not PostgreSQL's" in warning)
    assert unknown.startswith("1 files")
    assert unknown.endswith("base/5/16384.notes")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has to act for another user")
def test_files_behind_links_inside_the_data_directory_are_converted_once(
    original, copy, keystore_factory
):
    """Each file is met twice then, and must be converted once."""
    root = copy.data_directory
    for link, target in (("pg_wal", "a_wal"), (f"pg_tblspc/{original.tablespace}", "a_space")):
        (root / link).rename(root / target)
        (root / link).symlink_to(root / target)
    before = content(root)
    keystore = keystore_factory()
    encrypt_cluster(copy, keystore)
    after, expected = content(root), encrypted_form(before, keystore)
    wal = [name for name in before if name.startswith("a_wal/")]
    assert {name: after[name] == expected[name] for name in wal} == dict.fromkeys(wal, True)
    assert files_with(CANARY, root) == []
    report = audit(copy, keystore)
    assert report.clean, report.findings
    decrypt_cluster(copy, keystore)
    assert content(root) == before


def test_root_has_the_rights_of_the_owner_only(original, copy, keystore_factory):
    """Whatever the server's user puts in the way, root changes nothing of somebody else."""
    victim = copy.data_directory.with_name("victim")
    victim.write_bytes(original_page := b"\0" * 18 + b"\x04\x20" + b"\1" * 8172)
    target = copy.data_directory / "base/5/99999"
    target.hardlink_to(victim)
    with pytest.raises(ConversionError, match="hard links"):
        encrypt_cluster(copy, keystore_factory())
    victim.unlink()  # Now it has one name, and root is still its owner.
    target.chmod(0o644)
    with pytest.raises(ConversionError, match=r"99999 for reading and writing: Permission denied"):
        encrypt_cluster(copy, keystore_factory("other"))
    assert target.read_bytes() == original_page


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_without_root_the_same_is_converted(original, copy, os_user, keystore_factory):
    """Without root everything works the same; nothing is left that belongs to anybody else."""
    # Before the change of user, who may not reach the environment of the tests.
    import tde.postgres.server.symbols  # noqa: F401

    binaries = copy.binaries
    before = content(copy.data_directory)
    keystore = keystore_factory()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.setgroups([])
            os.setgid(os_user.gid)
            os.setuid(os_user.uid)
            cluster = Cluster(copy.data_directory, binaries)
            assert cluster.os_user is None
            encrypt_cluster(cluster, keystore)
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert without_ours(content(copy.data_directory)) == without_ours(
        encrypted_form(before, keystore)
    )
    assert {owner for _, owner, _ in permissions(copy.data_directory).values()} == {os_user.uid}


def test_the_commands_encrypt_and_decrypt(original, copy, keystore_factory, tde_command):
    keystore = keystore_factory()
    keystore.close()
    data = copy.data_directory
    before = content(data)
    secret = ["--passphrase-fd", 0]
    made = tde_command("pg", "encrypt", data, "-k", keystore.path, *secret, "--aes", 128)
    assert f"Encrypted {data} (AES-128-XTS, scope cluster)" in made.stdout
    assert "without them the data is lost" in made.stdout
    again = tde_command("pg", "encrypt", data, "-k", keystore.path, *secret, exit_code=1)
    assert "encrypted already" in again.stderr
    back = json.loads(tde_command("pg", "decrypt", "-D", data, *secret, "--json").stdout)
    assert back["direction"] == "decrypt"
    assert back["bytes"] == sum(len(data) for name, data in before.items() if is_block_file(name))
    assert content(data) == before
    none = tde_command("pg", "encrypt", *secret, exit_code=1)
    assert "HINT" in none.stderr


def is_block_file(name: str) -> bool:
    from tde import FileIdentity, IdentityError

    try:
        FileIdentity.from_path(name)
    except IdentityError:
        return False
    return True
