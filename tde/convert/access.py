"""The keystore that serves a conversion."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tde.postgres.cluster.cluster import Cluster


def keystore_of_conversion(cluster: Cluster, keystore: Path | None) -> Path | None:
    """Return the keystore that is named, or the one that an unfinished run or the cluster uses.

    What is wrong with the cluster is said before anybody types a passphrase. ``None`` when
    nothing names a keystore.

    Raises:
        NoDataDirectoryError: there is no cluster.
        ConversionError: the state of an unfinished conversion is damaged.
        DataDirectoryError: the marker of the cluster is damaged.
    """
    # Imported when it is asked, because `--help` must not wait for it.
    from tde.convert.state import read_state
    from tde.postgres.server.control import read_major_version

    read_major_version(cluster.data_directory)
    if keystore is not None:
        return keystore
    # Both are read, so that a damaged one is reported whatever the other says.
    state, marker = read_state(cluster.data_directory), cluster.marker
    if state is not None:
        return state.keystore
    return None if marker is None else marker.keystore
