"""What the nouns that work on a cluster share: finding it and opening its keystore."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from tde.cli.common import open_keystore

if TYPE_CHECKING:
    from tde.keystore import Keystore
    from tde.keystore.providers.passphrase import PassphraseSource
    from tde.postgres import Cluster


def find_cluster(pgdata: Path, bindir: Path | None, os_user: str | None) -> Cluster:
    """Return the cluster that the options name.

    Raises:
        BinariesNotFoundError: ``bindir`` is not a usable installation.
        OsUserError: ``os_user`` cannot run the server.
    """
    from tde.postgres import Cluster, find_binaries, server_os_user

    binaries = None if bindir is None else find_binaries(bindir)
    return Cluster(pgdata, binaries, os_user=server_os_user(pgdata, name=os_user))


def open_cluster_keystore(
    cluster: Cluster, keystore: Path | None, source: PassphraseSource
) -> AbstractContextManager[Keystore | None]:
    """Open the keystore of a cluster; for a plain cluster the context yields ``None``.

    The keystore is the one that the operator names, else the one that the cluster remembers.
    A wrong one is reported before anybody types a passphrase.

    Raises:
        ConversionError: the cluster is only partly encrypted.
        ClusterKeystoreError: the keystore is not the cluster's.
        KeystoreError: it cannot be opened.
    """
    from tde.keystore import keystore_uuid
    from tde.postgres.cluster.marker import require_matching_keystore
    from tde.postgres.cluster.unfinished_conversion import require_not_converting
    from tde.postgres.server.control import read_major_version

    read_major_version(cluster.data_directory)
    # Such a cluster may lack its marker, or have one already: neither says what it is.
    require_not_converting(cluster.data_directory)
    marker = cluster.marker
    if marker is None and keystore is None:
        return nullcontext()
    path = keystore if keystore is not None or marker is None else marker.keystore
    assert path is not None  # One of the two named it.
    require_matching_keystore(cluster.data_directory, marker, keystore_uuid(path))
    return open_keystore(path, source)
