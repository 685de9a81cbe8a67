"""Access to a cluster: the cluster in a directory, and the keystore that serves it.

Commands, web pages and cluster agents ask the same questions before they do anything: which
cluster, which keystore, and how that opens. The answers are here. What is slow to load is imported
when they are asked, because `--help` must not wait for it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from tde.errors import ClusterKeystoreError, KeystoreMissingError
from tde.keystore.opening import open_keystore
from tde.keystore.providers.passphrase_source import PROMPT, PassphraseSource

if TYPE_CHECKING:
    from tde.keystore import Keystore
    from tde.postgres.cluster.cluster import Cluster


def find_cluster(pgdata: Path, bindir: Path | None, os_user: str | None) -> Cluster:
    """Return the cluster in a data directory.

    Args:
        bindir: the PostgreSQL programs; searched for when ``None``.
        os_user: as root, the name of the user that runs the server; found out when ``None``.

    Raises:
        BinariesNotFoundError: ``bindir`` is not a usable installation.
        OsUserError: ``os_user`` cannot run the server.
    """
    from tde.postgres.cluster.cluster import Cluster
    from tde.postgres.server.binaries import find_binaries
    from tde.postgres.server.os_user import server_os_user

    binaries = None if bindir is None else find_binaries(bindir)
    return Cluster(pgdata, binaries, os_user=server_os_user(pgdata, name=os_user))


def keystore_of_cluster(cluster: Cluster, keystore: Path | None) -> Path | None:
    """Return the keystore that serves a cluster; ``None`` for a plain cluster.

    It is the one that the operator names, else the one that the cluster remembers. A wrong one
    is reported here, before anybody types a passphrase.

    Raises:
        ConversionError: the cluster is only partly encrypted.
        ClusterKeystoreError: the keystore is not the cluster's.
        KeystoreError: it is missing or damaged.
    """
    from tde.keystore import keystore_uuid
    from tde.keystore.store.remedies import find_keystore
    from tde.postgres.cluster.marker import require_matching_keystore
    from tde.postgres.cluster.unfinished_conversion import require_not_converting
    from tde.postgres.server.control import read_major_version

    read_major_version(cluster.data_directory)
    # Such a cluster may lack its marker, or have one already: neither says what it is.
    require_not_converting(cluster.data_directory)
    marker = cluster.marker
    path = keystore if keystore is not None or marker is None else marker.keystore
    if path is not None:
        try:
            uuid = keystore_uuid(path)
        except KeystoreMissingError as error:
            if marker is None:
                raise
            raise KeystoreMissingError(str(error), remedy=find_keystore(path)) from error
        require_matching_keystore(cluster.data_directory, marker, uuid)
    return path


def open_cluster_keystore(
    cluster: Cluster,
    keystore: Path | None,
    source: PassphraseSource,
    *,
    for_server: bool = False,
) -> AbstractContextManager[Keystore | None]:
    """Open the keystore that serves a cluster; for a plain cluster the context yields ``None``.

    Args:
        for_server: as of :func:`tde.keystore.opening.open_keystore`.

    Raises:
        ConversionError: the cluster is only partly encrypted.
        ClusterKeystoreError: the keystore is not the cluster's.
        KeystoreError: it cannot be opened.
    """
    path = keystore_of_cluster(cluster, keystore)
    if path is None and source != PROMPT:
        # Whoever may write to the volume removes the marker, and new rows are plaintext.
        raise ClusterKeystoreError(
            f"a passphrase was given, but {cluster.data_directory} is not an encrypted cluster: "
            "it has no tde.json",
            remedy="If it was encrypted, somebody has removed that file: restore it from a base "
            "backup and find out who. If not, give the command without a passphrase.",
        )
    return nullcontext() if path is None else open_keystore(path, source, for_server=for_server)


@contextmanager
def encrypted_cluster_keystore(
    cluster: Cluster,
    keystore: Path | None,
    source: PassphraseSource,
    *,
    remedy: str,
    for_server: bool = False,
) -> Iterator[Keystore]:
    """Open the keystore of a cluster that must be encrypted.

    Args:
        remedy: what to do when it is not.
        for_server: as of :func:`tde.keystore.opening.open_keystore`.

    Raises:
        ClusterKeystoreError: it is not, or the keystore is another's.
    """
    with open_cluster_keystore(cluster, keystore, source, for_server=for_server) as opened:
        if opened is None:
            raise ClusterKeystoreError(
                f"the cluster {cluster.data_directory} is not encrypted", remedy=remedy
            )
        yield opened
