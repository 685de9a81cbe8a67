"""Clusters as Debian's postgresql-common keeps them, and their files in /etc.

A cluster is called by the major version and a name, as in ``15/main``. Its data lies where
``data_directory`` in ``/etc/postgresql/15/main/postgresql.conf`` says, and pg_ctlcluster starts it
with that file, and with the options of ``pg_ctl.conf`` and the environment of ``environment``
beside it. An ordinary user may have such clusters too, below PG_CLUSTER_CONF_ROOT.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tde.errors import DataDirectoryError
from tde.postgres.server.cluster_files import read_configuration
from tde.postgres.server.config_files import (
    CONFIGURATION_FILE,
    DATA_DIRECTORY,
    name_of,
    settings_in,
)

_VARIABLE = "PG_CLUSTER_CONF_ROOT"
_ROOT = "/etc/postgresql"
_NAME = re.compile(r"(\d+)[/-]([^/\s'\"]+)")


@dataclass(frozen=True)
class DebianCluster:
    """A cluster of postgresql-common.

    Attributes:
        major: its major version.
        name: as in ``pg_lsclusters``.
        directory: with its configuration.
        data_directory: links resolved.
    """

    major: int
    name: str
    directory: Path
    data_directory: Path

    def __str__(self) -> str:
        return f"{self.major}/{self.name}"

    def is_called(self, name: str) -> bool:
        """Tell whether that is its name, such as ``15/main`` or ``15-main``."""
        match = _NAME.fullmatch(name)
        return match is not None and (self.major, self.name) == (int(match[1]), match[2])


def debian_clusters() -> Iterator[DebianCluster]:
    """Yield the clusters whose configuration this user may read, in the order of their names."""
    root = Path(os.environ.get(_VARIABLE) or _ROOT)
    for path in sorted(root.glob(f"*/*/{CONFIGURATION_FILE}")):
        directory = path.parent
        data = data_directory_in(path)
        if data is not None and directory.parent.name.isdecimal():
            yield DebianCluster(int(directory.parent.name), directory.name, directory, data)


def find_debian_cluster(name: str) -> DebianCluster:
    """Return a cluster by its name, such as ``15/main`` or ``15-main``.

    Raises:
        DataDirectoryError: there is none, with those that there are.
    """
    found = list(debian_clusters())
    for cluster in found:
        if cluster.is_called(name):
            return cluster
    names = ", ".join(map(str, found)) or "none"
    raise DataDirectoryError(
        f"there is no cluster {name} of Debian's postgresql-common (found: {names})",
        remedy="Name it as pg_lsclusters does, such as 15/main. Another cluster is started with "
        "tde pg start, or by a unit of systemd: tde pg unit --help",
    )


def data_directory_in(configuration: Path) -> Path | None:
    """Return what a configuration file says; None also when this user may not read it.

    The server's own user can, and so can root.
    """
    try:
        content = read_configuration(configuration)
    except OSError:
        return None
    named = [value for _, name, value in settings_in(content) if name == DATA_DIRECTORY]
    # Not resolve(), which raises on links that lead to each other.
    return Path(os.path.realpath(name_of(named[-1]))) if named else None
