"""`pg_upgrade` of encrypted clusters: the keys of the new cluster, and who may upgrade at all."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path

import pytest

from tde.algorithms import Algorithm
from tde.postgres import (
    Cluster,
    PostgresBinaries,
    create_tablespace,
    install_bin_directory,
    rekey_tablespaces,
)
from tde.postgres.cluster.keymap import map_key, read_map
from tde.postgres.cluster.scope import Scope
from tde.postgres.cluster.wal_rotation import rotate_wal_key
from tests.postgres.programs import Programs

CANARY = "row-of-the-old-version"


# Servers of November 2026 and later keep it with each column; a new server that is older than that
# does not know it, and pg_upgrade fails, with PostgreSQL's own programs as well.
_VERSIONS_OF_COLUMNS = b"pg_attver"


def is_new_enough(old: PostgresBinaries, new: PostgresBinaries) -> bool:
    """Tell whether a server knows all that an older one keeps in its catalogs."""
    keeps, knows = (_VERSIONS_OF_COLUMNS in b.program("postgres").read_bytes() for b in (old, new))
    return knows or not keeps


class Upgrade:
    """An old cluster with rows and a new one, for which a test chooses programs and keystores."""

    def __init__(self, directory, installations, os_user) -> None:
        self.directory = directory
        self.old_binaries, self.new_binaries = installations
        self.os_user = os_user
        self.before, self.after = directory / "before", directory / "after"

    def programs(self, binaries, name: str, keystore=None, **options) -> Programs:
        made = install_bin_directory(
            self.directory / name, binaries, self.os_user, keystore=keystore, **options
        )
        return Programs(made.path, self.directory, self.os_user)

    def old(self, keystore=None, **options) -> Programs:
        return self.programs(self.old_binaries, "bin-old", keystore, **options)

    def new(self, keystore=None, name="bin-new", **options) -> Programs:
        return self.programs(self.new_binaries, name, keystore, **options)

    def initdb(self, programs: Programs, data: Path) -> None:
        programs.run("initdb", "-N", "-k", "-A", "trust", "--locale=C", "-E", "UTF8", "-D", data)

    def run(self, old: Programs, new: Programs, *options: str, exit_code: int = 0) -> str:
        clusters = ("-d", self.before, f"--new-data={self.after}")
        programs = ("-b", old.directory, "-B", new.directory)
        return new.run(
            "pg_upgrade", *clusters, *programs, "-s", self.directory, *options, exit_code=exit_code
        )


@pytest.fixture
def upgrade(postgres_installations, os_user, os_user_tmp_path) -> Iterator[Upgrade]:
    pairs = [p for p in combinations(postgres_installations.values(), 2) if is_new_enough(*p)]
    if not pairs:
        pytest.skip("an upgrade needs a second major version of PostgreSQL")
    made = Upgrade(os_user_tmp_path, pairs[-1], os_user)
    yield made
    for data, binaries in ((made.before, made.old_binaries), (made.after, made.new_binaries)):
        cluster = Cluster(data, binaries, os_user=os_user)
        if cluster.pid is not None:
            cluster.stop("immediate")


def auto_open_keystore(keystore_factory, name: str):
    keystore = keystore_factory(name)
    keystore.enable_auto_open()
    return keystore


def _wal_keys(data: Path, keystore):
    return read_map(data, keystore.uuid, map_key(keystore)).wal_keys


def move_tablespace(data: Path, oid: int, to: Path) -> None:
    """Move a tablespace of a stopped cluster, as a restore with -T does."""
    link = data / "pg_tblspc" / str(oid)
    link.readlink().rename(to)
    owner = os.lstat(link)
    link.unlink()
    link.symlink_to(to)
    os.lchown(link, owner.st_uid, owner.st_gid)


@pytest.mark.parametrize("scope", list(Scope))
def test_a_tablespace_keeps_its_key_wherever_it_was_moved(
    upgrade, keystore_factory, os_user_tmp_path, scope
):
    keystore = auto_open_keystore(keystore_factory, "ks")
    old, new = upgrade.old(keystore, scope=scope), upgrade.new(keystore, scope=scope)
    upgrade.initdb(old, upgrade.before)
    old.start(upgrade.before)
    cluster = Cluster(upgrade.before, upgrade.old_binaries, os_user=upgrade.os_user)
    places = {}
    # The path of one gets the name of another's key, which must not be believed.
    for name in ("first", "second", "third"):
        algorithm = None if name == "third" and scope is Scope.TABLESPACES else Algorithm.AES128
        made = create_tablespace(cluster, keystore, name, os_user_tmp_path / name, algorithm)
        rows = f"SELECT '{CANARY}' || g AS v FROM generate_series(1, 1000) g"
        old.sql(f"CREATE TABLE {name} TABLESPACE {name} AS {rows}")
        places[name] = made
    old.run("pg_ctl", "stop", "-D", upgrade.before)
    rotate_wal_key(cluster, keystore, Algorithm.AES256)
    moved = os_user_tmp_path / "moved"
    moved.mkdir()
    target = {
        "first": moved / "first",
        "second": moved / Path(places["third"].location).name,
        "third": moved / "third",
    }
    for name, to in target.items():
        move_tablespace(upgrade.before, places[name].oid, to)
    upgrade.initdb(new, upgrade.after)
    upgrade.run(old, new, "--check")
    before = (upgrade.after / "tde.keymap").read_bytes()
    upgrade.run(old, new)
    carried = (upgrade.after / "tde.keymap").read_bytes()
    assert carried.startswith(before)
    # Those of the tablespaces, and that of WAL.
    assert len(carried) == len(before) + 4 * 64
    assert _wal_keys(upgrade.after, keystore) == _wal_keys(upgrade.before, keystore) != []
    new.start(upgrade.after)
    for name in target:
        assert new.sql(f"SELECT count(*), min(v) FROM {name}") == f"1000|{CANARY}1"
        new.sql(f"INSERT INTO {name} VALUES ('new')")
    # Nothing of the old cluster is needed any more.
    new.run("pg_ctl", "restart", "-w", "-D", upgrade.after, "-l", f"{upgrade.after}.log")
    for name in target:
        assert new.sql(f"SELECT count(*) FROM {name}") == "1001"


def content(directory: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}


@pytest.mark.parametrize("encrypted", ["both, two keystores", "old", "new", "neither"])
def test_clusters_with_unlike_keys_are_not_upgraded(upgrade, keystore_factory, encrypted):
    first = auto_open_keystore(keystore_factory, "ks")
    second = auto_open_keystore(keystore_factory, "other") if "two" in encrypted else first
    old, new = upgrade.old(first), upgrade.new(second)
    plain_old, plain_new = (
        upgrade.programs(binaries, f"plain-{binaries.major}")
        for binaries in (upgrade.old_binaries, upgrade.new_binaries)
    )
    upgrade.initdb(old if encrypted[:3] in ("bot", "old") else plain_old, upgrade.before)
    upgrade.initdb(new if encrypted[:3] in ("bot", "new") else plain_new, upgrade.after)
    if encrypted == "neither":
        # The programs of an encrypted cluster give no keys to one that is not.
        assert "Upgrade Complete" in upgrade.run(old, new)
        new.start(upgrade.after)
        new.sql(f"CREATE TABLE t AS SELECT '{CANARY}'")
        new.sql("CHECKPOINT")
        assert any(CANARY.encode() in file for file in content(upgrade.after).values())
        return
    before = content(upgrade.before), content(upgrade.after)
    said = upgrade.run(old, new, exit_code=1)
    assert ("belongs to another keystore" if "two" in encrypted else "is not encrypted") in said
    assert str(upgrade.before) in said
    assert (content(upgrade.before), content(upgrade.after)) == before


@pytest.mark.parametrize("side", ["old", "new"])
def test_a_pg_upgrade_without_keys_starts_no_server_that_has_them(upgrade, keystore_factory, side):
    keystore = auto_open_keystore(keystore_factory, "ks")
    old = upgrade.old(keystore if side == "old" else None)
    new = upgrade.new(keystore if side == "new" else None)
    upgrade.initdb(old, upgrade.before)
    upgrade.initdb(new, upgrade.after)
    stock = upgrade.programs(upgrade.new_binaries, "stock")
    said = stock.run(
        *("pg_upgrade", "-d", upgrade.before, "-D", upgrade.after, "-b", old.directory),
        *("-B", new.directory, "-s", upgrade.directory),
        exit_code=1,
    )
    assert "Upgrade Complete" not in said
    logs = upgrade.after.glob("pg_upgrade_output.d/*/log/*.log")
    words = said + "".join(log.read_text() for log in logs)
    assert not list(upgrade.directory.glob("*/postmaster.pid"))  # A PANIC would leave it.
    assert re.search("refused to start for an upgrade: .*HINT: use the pg_upgrade of", words), words


@pytest.mark.slow
def test_a_rekeyed_cluster_is_upgraded_into_one_with_the_same_key(
    upgrade, keystore_factory, os_user_tmp_path
):
    """Files of pg_default come to lie beside those of the new cluster's initdb."""
    keystore = auto_open_keystore(keystore_factory, "ks")
    old, new = upgrade.old(keystore), upgrade.new(keystore)
    upgrade.initdb(old, upgrade.before)
    old.start(upgrade.before)
    before = Cluster(upgrade.before, upgrade.old_binaries, os_user=upgrade.os_user)
    place = os_user_tmp_path / "space"
    create_tablespace(before, keystore, "space", place, Algorithm.AES128)
    rows = f"SELECT '{CANARY}' || g AS v FROM generate_series(1, 1000) g"
    for name in ("space", "pg_default"):
        old.sql(f"CREATE TABLE of_{name} TABLESPACE {name} AS {rows}")
    old.run("pg_ctl", "stop", "-D", upgrade.before)
    rekey_tablespaces(before, keystore, every=True)
    upgrade.initdb(new, upgrade.after)
    whole = content(upgrade.after)
    for options in (["--check"], []):
        refused = upgrade.run(old, new, *options, exit_code=1)
        assert "tablespace pg_default has another key" in refused
        command = f"rekey pg_default -D {upgrade.after} --same-keys-as {upgrade.before}"
        assert f"tde tablespace {command}" in refused
    assert content(upgrade.after) == whole
    after = Cluster(upgrade.after, upgrade.new_binaries, os_user=upgrade.os_user)
    rekey_tablespaces(after, keystore, ["pg_default"], same_keys_as=upgrade.before)
    upgrade.run(old, new, "--check")
    upgrade.run(old, new)
    new.start(upgrade.after)
    for name in ("space", "pg_default"):
        assert new.sql(f"SELECT count(*), min(v) FROM of_{name}") == f"1000|{CANARY}1"
    new.run("pg_ctl", "stop", "-D", upgrade.after)
