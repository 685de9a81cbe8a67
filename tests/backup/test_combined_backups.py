"""Incremental backups (17 and later) and pg_combinebackup, where key maps are equal and differ.

Blocks are combined as they are. PostgreSQL compares timelines and positions, which does not tell
two servers apart that were promoted to the same timeline, nor a cluster before its encryption.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from tde.algorithms import Algorithm
from tde.postgres import (
    PostgresBinaries,
    create_tablespace,
    encrypt_cluster,
    install_bin_directory,
    rekey_tablespaces,
    run_program,
)
from tde.postgres.cluster.keymap import KEYMAP_FILE
from tde.postgres.server.os_user import run_as
from tests.postgres.canaries import CANARY, files_with
from tests.postgres.cluster_copies import base_backup, open_copy
from tests.replication.test_standbys_and_recovery import wait_until

OPTIONS = {"summarize_wal": "on", "wal_keep_size": "256MB"}


@pytest.fixture
def incremental(postgres_installations) -> PostgresBinaries:
    """The newest installation, if it has incremental backups."""
    newest: PostgresBinaries = list(postgres_installations.values())[-1]
    if newest.major < 17:
        pytest.skip("incremental backups came with PostgreSQL 17")
    return newest


def back_up(made, target: Path, *, after: Path | None = None) -> Path:
    """Take a backup with tablespaces beside it; ``after`` another, an incremental one."""
    spaces = made.query("SELECT pg_tablespace_location(oid) FROM pg_tablespace WHERE oid > 16000")
    arguments = [f"--tablespace-mapping={space}={target}-space" for (space,) in spaces]
    if after is not None:
        arguments.append(f"--incremental={after / 'backup_manifest'}")
    base_backup(made, target, "--wal-method=fetch", *arguments)
    return target


def combination(backups: Sequence[Path], output: Path) -> list[str]:
    """Return the arguments that combine backups."""
    spaces = [link.readlink() for link in (backups[-1] / "pg_tblspc").iterdir()]
    mapping = [f"--tablespace-mapping={space}={output}-space" for space in spaces]
    return [*map(str, backups), "-o", str(output), *mapping]


def combine(made, backups: Sequence[Path], output: Path) -> CompletedProcess[str]:
    """Combine backups as ``tde pg exec pg_combinebackup`` does."""
    arguments = combination(backups, output)
    return run_program(
        made.cluster.binaries, "pg_combinebackup", arguments, os_user=made.cluster.os_user
    )


def require_refused(run: CompletedProcess[str], output: Path, *messages: str) -> None:
    assert run.returncode == 1
    for message in (*messages, "refused to combine these backups: nothing was written"):
        assert message in run.stderr
    assert not output.exists()


def make_space(made, directory: Path) -> int:
    space = create_tablespace(made.cluster, made.keystore, "space", directory, Algorithm.AES128)
    made.query(
        "CREATE TABLE t TABLESPACE space AS "
        f"SELECT g, '{CANARY.decode()}' AS x FROM generate_series(1, 3000) g"
    )
    made.query("CHECKPOINT")
    return space.oid


def test_a_chain_of_one_server_opens_with_the_keys_of_its_map(
    incremental, encrypted_cluster_factory, os_user_tmp_path
):
    made = encrypted_cluster_factory(incremental, options=OPTIONS)
    made.query("CREATE TABLE old AS SELECT generate_series(1, 3000) AS g")
    chain = [back_up(made, os_user_tmp_path / "full")]
    make_space(made, os_user_tmp_path / "space")
    chain.append(back_up(made, os_user_tmp_path / "second", after=chain[-1]))
    # One block of each: the others come from the backups before.
    made.query("UPDATE t SET x = 'new' WHERE g = 1500")
    made.query("UPDATE old SET g = 0 WHERE g = 1500")
    chain.append(back_up(made, os_user_tmp_path / "third", after=chain[-1]))
    assert list(chain[-1].rglob("INCREMENTAL.*"))
    output = os_user_tmp_path / "combined"
    run = combine(made, chain, output)
    assert run.returncode == 0, run.stderr
    assert files_with(CANARY, *chain, output, Path(f"{output}-space")) == []
    combined = open_copy(encrypted_cluster_factory, made, output, made.keystore)
    combined.start()
    assert combined.query("SELECT count(*), sum(g) FROM old") == [(3000, 4501500 - 1500)]
    assert combined.query("SELECT count(*), max(x) FROM t") == [(3000, "new")]


def test_backups_of_servers_that_have_parted_are_refused(
    incremental, encrypted_cluster_factory, os_user_tmp_path, os_user
):
    """Both were promoted to timeline 2, so PostgreSQL itself would combine their backups."""
    primary = encrypted_cluster_factory(incremental, options=OPTIONS)
    primary.query("CREATE TABLE common AS SELECT 1 AS x")
    servers = []
    for name in ("one", "two"):
        base_backup(primary, os_user_tmp_path / name, "--wal-method=stream")
        directory = os_user_tmp_path / name
        server = open_copy(encrypted_cluster_factory, primary, directory, primary.keystore)
        (directory / "standby.signal").touch()
        server.start(OPTIONS)
        servers.append(server)
    primary.cluster.stop()
    for server in servers:
        server.query("SELECT pg_promote()")
        wait_until(server, "SELECT pg_is_in_recovery()", False)
    one, two = servers
    oids = [
        make_space(server, os_user_tmp_path / f"space-{number}")
        for number, server in enumerate(servers)
    ]
    assert oids[0] == oids[1]
    # The full backup begins behind all that is in the other server's tablespace.
    for server, rows in ((one, 500_000), (two, 900_000)):
        server.query(f"CREATE TABLE filler AS SELECT generate_series(1, {rows})")
        server.query("CHECKPOINT")
    backups = [back_up(one, os_user_tmp_path / "full")]
    backups.append(back_up(two, os_user_tmp_path / "incremental", after=backups[0]))
    assert list(Path(f"{backups[1]}-space").rglob("INCREMENTAL.*"))

    output = os_user_tmp_path / "combined"
    said = [f"tablespace {oids[0]} has one key in {backups[0]}", "combine backups of one server"]
    require_refused(combine(one, backups, output), output, *said)
    one.keystore.enable_auto_open()
    programs = install_bin_directory(
        os_user_tmp_path / "bin", incremental, os_user, keystore=one.keystore
    )
    command = [programs.path / "pg_combinebackup", *combination(backups, output)]
    require_refused(run_as(os_user, command), output, *said)

    # PostgreSQL refuses by itself where the timelines tell.
    primary.start(OPTIONS)
    primary.query("CREATE TABLE filler AS SELECT generate_series(1, 500000)")
    full = back_up(primary, os_user_tmp_path / "other")
    with pytest.raises(AssertionError, match=r"manifest requires WAL|WAL summaries are required"):
        back_up(two, os_user_tmp_path / "never", after=full)


def test_a_plain_backup_is_not_combined_with_one_since_the_encryption(
    incremental, encrypted_cluster_factory, os_user_tmp_path, keystore_factory
):
    """Encryption leaves no trace in the WAL, so PostgreSQL takes no block for changed."""
    made = encrypted_cluster_factory.plain(incremental, options=OPTIONS)
    made.query(
        f"CREATE TABLE t AS SELECT g, '{CANARY.decode()}' AS x FROM generate_series(1, 3000) g"
    )
    full = back_up(made, os_user_tmp_path / "full")
    made.cluster.stop()
    made.keystore = keystore_factory()
    encrypt_cluster(made.cluster, made.keystore)
    made.start(OPTIONS)
    newer = back_up(made, os_user_tmp_path / "incremental", after=full)
    output = os_user_tmp_path / "combined"
    said = [f"{full} has no key map, and {newer} has one", "take a full backup again"]
    require_refused(combine(made, [full, newer], output), output, *said)


@pytest.mark.parametrize("which", ["pg_default", pytest.param("space", marks=pytest.mark.slow)])
def test_backups_from_before_and_after_a_rekey_are_not_combined(
    incremental, encrypted_cluster_factory, os_user_tmp_path, tde_command, which
):
    """It leaves no trace in the WAL either; pg_default has no entry in the map of before."""
    made = encrypted_cluster_factory(incremental, options=OPTIONS)
    oid = make_space(made, os_user_tmp_path / "space")
    full = back_up(made, os_user_tmp_path / "full")
    target = os_user_tmp_path / "asked"
    ((location,),) = made.query(f"SELECT pg_tablespace_location({oid})")
    manifests = {"CRC32C": full / "backup_manifest", "SHA256": full / "sha256_manifest"}
    text = manifests["CRC32C"].read_text()
    digest = sha256((full / KEYMAP_FILE).read_bytes()).hexdigest()
    manifests["SHA256"].write_text(
        re.sub(
            rf'("{KEYMAP_FILE}".*"Checksum-Algorithm": )"CRC32C", "Checksum": "[0-9a-f]*"',
            rf'\1"SHA256", "Checksum": "{digest}"',
            text,
        )
    )
    assert digest in manifests["SHA256"].read_text()

    def take(manifest, *, exit_code=0):
        where = ("pg", "exec", "-D", made.data_directory, "--bindir", made.cluster.binaries.bindir)
        source = ("--passphrase-fd", "0", "pg_basebackup", "-D", target)
        space = f"--tablespace-mapping={location}={target}-space"
        options = ("-U", "postgres", "--no-sync", "--checkpoint=fast", "--incremental", manifest)
        return tde_command(*where, *source, space, *options, exit_code=exit_code)

    made.cluster.stop()
    rekey_tablespaces(made.cluster, made.keystore, [which])
    made.start(OPTIONS)
    made.query("UPDATE t SET x = 'new' WHERE g = 1500")
    number = {"pg_default": 1663, "space": oid}[which]
    for algorithm, manifest in manifests.items():
        refused = take(manifest, exit_code=5)
        assert f"tablespace {number} has got another key since the backup of" in refused.stderr
        assert "Take a full backup" in refused.stderr, algorithm
        assert not target.exists()
    newer = back_up(made, os_user_tmp_path / "incremental", after=full)
    output = os_user_tmp_path / "combined"
    said = [f"tablespace {number} has one key in {full}", "tde tablespace rekey", "full backup"]
    require_refused(combine(made, [full, newer], output), output, *said)
    # A chain that begins after it is combined.
    full = back_up(made, os_user_tmp_path / "full-again")
    made.query("UPDATE t SET x = 'newer' WHERE g = 1500")
    take(full / "backup_manifest")
    run = combine(made, [full, target], output)
    assert run.returncode == 0, run.stderr
    combined = open_copy(encrypted_cluster_factory, made, output, made.keystore)
    combined.start()
    assert combined.query("SELECT count(*), max(x) FROM t WHERE g = 1500") == [(1, "newer")]
