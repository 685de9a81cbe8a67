"""Clusters that initdb has made once, and that tests get copies of.

Making a cluster takes 1.2 seconds of processor time and copying one a seventh of that, so most
tests begin with a copy. What initdb does is tested where it is run: in tests/cli, for example.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from tde.algorithms import Algorithm
from tde.keystore import Keystore
from tde.postgres import Cluster, OsUser, Scope
from tde.postgres.cluster.accepted_lines import accept_lines


@dataclass(frozen=True)
class Wanted:
    """What a cluster is made with; clusters with other names have other keys and identifiers.

    Attributes:
        scope: None for a cluster without encryption.
    """

    name: str
    bindir: Path
    scope: Scope | None
    algorithm: Algorithm | None
    initdb_args: tuple[str, ...]

    @property
    def is_movable(self) -> bool:
        """Whether no argument of initdb names a place that a copy would share."""
        return not any("/" in argument for argument in self.initdb_args)


class ClusterTemplates:
    """The templates of one process, in a directory of their own."""

    def __init__(self, directory: Path, os_user: OsUser | None) -> None:
        self._directory = directory
        self._os_user = os_user
        self._made: dict[Wanted, Path] = {}

    def copy(
        self,
        wanted: Wanted,
        make: Callable[[Path, Path], None],
        data_directory: Path,
        keystore: Path | None,
    ) -> None:
        """Put a cluster, and its keystore, where nothing is yet.

        Args:
            make: makes the template's data directory and keystore at two paths.
        """
        template = self._made.get(wanted)
        if template is None:
            template = self._directory / str(len(self._made))
            template.mkdir()
            if self._os_user is not None:
                shutil.chown(template, self._os_user.uid, self._os_user.gid)
            make(template / "data", template / "keystore")
            self._made[wanted] = template
        _copy(template / "data", data_directory)
        if keystore is not None:
            _copy(template / "keystore", keystore)

    def settle(self, cluster: Cluster, keystore: Keystore) -> None:
        """Let a copy know where it is: the marker names the keystore, which names the cluster."""
        marker = cluster.marker
        assert marker is not None
        replace(marker, keystore=keystore.path).write(cluster.data_directory, cluster.os_user)
        for accepted in keystore.path.glob("accepted-lines.*"):
            accepted.unlink()
        accept_lines(cluster.data_directory, keystore, ())


def _copy(source: Path, target: Path) -> None:
    subprocess.run(["cp", "-a", "--", source, target], check=True)
