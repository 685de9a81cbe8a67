"""The keystore that serves a conversion."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tde.errors import ClusterKeystoreError, ConversionError

if TYPE_CHECKING:
    from tde.postgres.cluster.cluster import Cluster


def keystore_to_encrypt(
    cluster: Cluster, keystore: Path | None, tablespaces: Sequence[str] = ()
) -> Path | None:
    """Return the keystore that is named; ``None`` when none is.

    Nothing in the data directory names one, also when a conversion is continued: whoever may write
    to the volume would have the cluster encrypted with keys of his own. What is wrong with
    the cluster is said before anybody types a passphrase.

    Args:
        tablespaces: names or OIDs of those that are to be encrypted.

    Raises:
        NoDataDirectoryError: there is no cluster.
        ClusterKeystoreError: a conversion is unfinished, and no keystore is named.
        ConversionError: the cluster is encrypted, its server runs, there is no such tablespace,
            or the state of a conversion is damaged.
        DataDirectoryError: the marker of the cluster is damaged.
    """
    # Imported when it is asked, because `--help` must not wait for it.
    from tde.convert.authentic import encrypted_already
    from tde.convert.checks import require_no_server
    from tde.convert.control_file import is_control_moved
    from tde.convert.tablespace_names import resolve_tablespaces
    from tde.postgres.cluster.unfinished_conversion import read_state_document
    from tde.postgres.server.control import read_major_version

    read_major_version(cluster.data_directory)
    document, marker = read_state_document(cluster.data_directory), cluster.marker
    require_no_server(cluster)
    if not is_control_moved(cluster.data_directory):
        if marker is not None and document is None:
            raise encrypted_already(cluster.data_directory, marker)
        if marker is None:
            # Of one that is partly encrypted the conversion's own state knows the names.
            resolve_tablespaces(cluster.data_directory, tablespaces)
    if keystore is not None:
        return keystore
    if document is not None:
        raise ClusterKeystoreError(
            f"a conversion of {cluster.data_directory} is unfinished, and no keystore is named",
            remedy="Name the one with which you began it, with --keystore. The data directory "
            f"claims that it was {document.keystore}; only you know whether that is true.",
        )
    if marker is not None:
        raise encrypted_already(cluster.data_directory, marker)
    return None


def keystore_to_decrypt(cluster: Cluster, keystore: Path | None) -> Path:
    """Return the keystore that is named, or that of the encrypted cluster.

    Raises:
        NoDataDirectoryError: there is no cluster.
        ClusterKeystoreError: a conversion is unfinished, and nothing names the keystore.
        ConversionError: the cluster is not encrypted, its server runs, or the state of a
            conversion is damaged.
        DataDirectoryError: the marker of the cluster is damaged.
    """
    from tde.convert.authentic import lost_journal
    from tde.convert.checks import require_no_server
    from tde.convert.control_file import is_control_moved
    from tde.postgres.cluster.unfinished_conversion import read_state_document
    from tde.postgres.server.control import read_major_version

    read_major_version(cluster.data_directory)
    require_no_server(cluster)
    # Both are read, so that a damaged one is reported whatever the other says.
    document, marker = read_state_document(cluster.data_directory), cluster.marker
    if marker is None and document is None and not is_control_moved(cluster.data_directory):
        raise ConversionError(
            f"the cluster {cluster.data_directory} is not encrypted",
            remedy="There is nothing to do.",
        )
    if keystore is not None:
        return keystore
    if marker is not None:
        # A wrong one has not the keys, and cannot make plaintext of anything.
        return marker.keystore
    if document is not None:
        raise ClusterKeystoreError(
            f"a conversion of {cluster.data_directory} is unfinished, and no keystore is named",
            remedy="Name that of the cluster with --keystore. The data directory claims that it "
            f"is {document.keystore}; only you know whether that is true.",
        )
    raise lost_journal(cluster.data_directory)
