"""What the tests of conversions share: a stopped cluster to copy, and what it must become."""

from __future__ import annotations

import os
import shutil
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tde import FileIdentity, IdentityError, PageCipher
from tde.keystore import KeyOwner, Keystore, inspect_keystore
from tde.keystore.crypto.secret import wipe
from tde.postgres import Cluster
from tde.postgres.server.os_user import run_as
from tests.postgres.canaries import CANARY
from tests.postgres.cluster_copies import make_directory
from tests.postgres.control_files import hidden_state, with_checksums_on
from tests.postgres.tablespace_keys import key_of_tablespace
from tests.postgres.tpcb import pgbench

if TYPE_CHECKING:
    from tde.postgres import PostgresBinaries
    from tests.conftest import ClusterFactory, RunningCluster

ROWS = 20_000
# Files that say something about a conversion, not about the data.
OURS = {"tde.json", "tde.keymap", "postgresql.conf"}


@dataclass
class Original:
    """A plain cluster that was stopped, and copies of it."""

    factory: ClusterFactory
    made: RunningCluster
    tablespace: int

    def copy(self, name: str) -> Cluster:
        """Return a copy, which keeps owners, modes and holes."""
        target = self.factory.directory / name
        copy_tree(self.made.data_directory, target)
        cluster = Cluster(target, self.made.cluster.binaries, os_user=self.factory.os_user)
        return self.factory.track(cluster)


def copy_tree(source: Path, target: Path) -> None:
    """Copy a data directory as it is, as the same user."""
    shutil.copytree(source, target, symlinks=True)
    if os.geteuid() == 0:
        for path in [source, *source.rglob("*")]:
            status = path.lstat()
            os.lchown(target / path.relative_to(source), status.st_uid, status.st_gid)


def make_original(
    factory: ClusterFactory, binaries: PostgresBinaries, *, data_checksums: bool = True
) -> Original:
    """Make a cluster with TPC-B tables, a tablespace, rows to look for, and a hole in a file."""
    made = factory.plain(
        binaries,
        name=f"plain-{binaries.major}",
        options={"allow_in_place_tablespaces": "on"},
        data_checksums=data_checksums,
    )
    pgbench(made, "-i", "-s", "1", "-q")
    pgbench(made, "-n", "-t", "50", "-c", "2")
    # Inside the data directory, so that copies have one of their own.
    made.query("CREATE TABLESPACE secret LOCATION ''")
    made.query(
        "CREATE TABLE t TABLESPACE secret AS SELECT i AS n, %s AS x FROM generate_series(1, %s) i",
        (CANARY.decode(), ROWS),
    )
    made.query("CREATE INDEX ON t (x, n)")
    made.query("CREATE UNLOGGED TABLE u AS SELECT %s::text AS x", (CANARY.decode(),))
    made.query("CREATE INDEX ON u (x)")  # Its init fork has a page.
    made.query("VACUUM")
    oid = made.query("SELECT oid FROM pg_tablespace WHERE spcname = 'secret'")[0][0]
    path = made.data_directory / made.query("SELECT pg_relation_filepath('u')")[0][0]
    made.cluster.stop()
    # As after extending a relation by blocks that were never written.
    with path.open("r+b") as file:
        file.truncate(64 * 8192)
    return Original(factory, made, oid)


def make_user_tablespace(cluster: RunningCluster, path: Path) -> None:
    """Make a tablespace outside of the data directory, with rows."""
    make_directory(cluster, path)
    cluster.query(f"CREATE TABLESPACE outside LOCATION '{path}'")
    cluster.query(f"CREATE TABLE o TABLESPACE outside AS SELECT '{CANARY.decode()}'::text AS x")


def content(directory: Path) -> dict[str, bytes]:
    """Return every file below a data directory."""
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


def encrypted_form(plain: dict[str, bytes], keystore: Keystore) -> dict[str, bytes]:
    """Return what the files must become, computed without the code that converts clusters."""
    with ExitStack() as stack:
        ciphers: dict[int | None, PageCipher | None] = {}

        def cipher(tablespace: int | None) -> PageCipher | None:
            if tablespace not in ciphers:
                ciphers[tablespace] = _cipher(keystore, tablespace)
                if ciphers[tablespace]:
                    stack.enter_context(ciphers[tablespace])
            return ciphers[tablespace]

        result = {}
        for name, data in plain.items():
            if name == "global/pg_control":
                result[name] = hidden_state(data)
                continue
            try:
                found = FileIdentity.from_path(name)
            except IdentityError:
                result[name] = data
                continue
            chosen = cipher(found.tablespace)
            if chosen is not None:
                data = chosen.encrypt_pages(
                    data, identity=found.identity, first_block=found.first_block
                )
            result[name] = data
        return result


def _cipher(keystore: Keystore, tablespace: int | None) -> PageCipher | None:
    if tablespace is None:
        records = {
            record.owner: record.algorithm for record in inspect_keystore(keystore.path).keys
        }
        key = keystore.unwrap_key(KeyOwner.wal())
        algorithm = records[KeyOwner.wal()]
        assert algorithm is not None
    else:
        found = key_of_tablespace(keystore, tablespace)
        if found is None:
            return None
        algorithm, key = found
    try:
        return PageCipher(key, algorithm)
    finally:
        wipe(key)


def with_stock_checksums(cluster: Cluster) -> dict[str, bytes]:
    """Return what PostgreSQL's own pg_checksums makes of a plain cluster, which stays as it is."""
    control = (cluster.data_directory / "global/pg_control").read_bytes()
    other = cluster.data_directory.with_name(f"{cluster.data_directory.name}-stock")
    copy_tree(cluster.data_directory, other)
    try:
        program = cluster.binaries.program("pg_checksums")
        run = run_as(cluster.os_user, [program, "--enable", "-D", other])
        assert run.returncode == 0, run.stderr
        # It also writes the time.
        return {**content(other), "global/pg_control": with_checksums_on(control)}
    finally:
        shutil.rmtree(other)


def without_ours(files: dict[str, bytes]) -> dict[str, bytes]:
    """Leave out what a conversion writes besides blocks."""
    return {name: data for name, data in files.items() if name not in OURS}
