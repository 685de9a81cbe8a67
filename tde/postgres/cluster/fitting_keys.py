"""The question that comes before a program gets the keys of one cluster: are they the other's?

The interposer asks it again before the program writes anything
(c_ext/interpose/policy/cluster.c); here it is asked before anybody types a passphrase, and of
programs that would only fail with a message of PostgreSQL's.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tde.errors import ClusterKeystoreError
from tde.postgres.cluster.access import keystore_of_cluster
from tde.postgres.cluster.incremental_backups import require_same_keys_since
from tde.postgres.cluster.marker import read_marker
from tde.postgres.server.named_directory import INFORMATION_OPTIONS, named_data_directory
from tde.postgres.server.program import needs_keys

if TYPE_CHECKING:
    from tde.postgres.cluster.cluster import Cluster


def require_fitting_keys(
    cluster: Cluster, keystore: Path | None, program: str, arguments: Sequence[str]
) -> None:
    """Check that a program which gets the keys of a cluster works on one that has these keys.

    Args:
        cluster: whose keys the program gets.
        keystore: where they are; the one that the cluster remembers when ``None``.
        program: name of the program.
        arguments: its arguments.

    Raises:
        ClusterKeystoreError: it would work on a cluster with other keys, or with none, or on
            backups with different ones.
        ConversionError: the cluster is only partly encrypted.
    """
    from tde.keystore import keystore_uuid

    if program == "pg_upgrade" and cluster.marker is not None:
        raise ClusterKeystoreError(
            f"pg_upgrade cannot be run by tde pg exec: it works on {cluster.data_directory} and "
            "on another cluster, and starts programs of two versions",
            remedy="Make directories with tde pg install-bin for both versions, and run the "
            "pg_upgrade of the new one.",
        )
    if cluster.marker is not None and _creates_a_cluster(program, arguments):
        raise ClusterKeystoreError(
            f"{program} would make a cluster with the keys of {cluster.data_directory}, and "
            "nothing would say so",
            remedy="Make encrypted clusters with tde pg init, or with the initdb of tde pg "
            "install-bin; for a cluster without encryption use PostgreSQL's own program.",
        )
    if program == "pg_basebackup":
        require_same_keys_since(cluster, arguments)
    if not needs_keys(program):
        return
    used = keystore_of_cluster(cluster, keystore)
    named = named_data_directory(program, arguments)
    if named is not None and named.name == "pg_wal":
        named = named.parent
    # What is no data directory, such as one with the configuration, is the program's own question.
    if used is None or named is None or not _is_cluster(named):
        return
    marker = read_marker(named)
    if marker is not None and marker.keystore_uuid == keystore_uuid(used):
        return
    if program == "pg_verifybackup":
        how = "Name the backup's own cluster, or the backup itself, with tde pg exec -D."
    else:
        how = (
            f"Name the same directory twice, or let {program} take the one that tde pg exec -D "
            "names."
        )
    state = "is not encrypted" if marker is None else "is encrypted with another keystore"
    raise ClusterKeystoreError(
        f"{program} would get the keys of {cluster.data_directory} and work on {named.absolute()}, "
        f"which {state}",
        remedy=f"{how} For a cluster without encryption use PostgreSQL's own program.",
    )


def _creates_a_cluster(program: str, arguments: Sequence[str]) -> bool:
    if arguments and arguments[0] in INFORMATION_OPTIONS:
        return False
    if program == "pg_ctl":
        return not {"init", "initdb"}.isdisjoint(arguments)
    # It can also show its settings, or sync a cluster that exists.
    others = {"-S", "--sync-only", "-s", "--show"}
    return program == "initdb" and others.isdisjoint(arguments)


def _is_cluster(directory: Path) -> bool:
    try:
        return (directory / "PG_VERSION").exists()
    except OSError:
        return False  # The program cannot look into it either.
