"""Encrypted clusters that Debian's pg_ctlcluster, and so systemd, starts and stops.

``pg_ctlcluster`` takes options for ``pg_ctl`` from ``pg_ctl.conf``; ``-p`` names the server program
there. Registering makes a directory of stand-ins (:mod:`tde.postgres.cluster.bin_directory`) for
the cluster and names its ``postgres``. Nothing else of Debian's is changed: ``pg_lsclusters``,
``systemctl start postgresql@15-main`` and the start at boot work as before, and upgrades of the
packages overwrite nothing of it.
"""

from __future__ import annotations

import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from tde.errors import ClusterKeystoreError, DataDirectoryError, InterposerError, TdeError
from tde.postgres.cluster.bin_directory import (
    BinDirectory,
    install_bin_directory,
    is_bin_directory,
    refresh_bin_directory,
)
from tde.postgres.cluster.guard import ensure_guards
from tde.postgres.cluster.marker import Marker, read_marker
from tde.postgres.server.binaries import find_binaries
from tde.postgres.server.cluster_files import read_cluster_file
from tde.postgres.server.debian_layout import DebianCluster
from tde.postgres.server.os_user import server_os_user, user_of_files
from tde.postgres.server.owned_files import write_owned_file

OPTIONS_FILE = "pg_ctl.conf"

PROGRAMS_OF_VERSION = "/usr/lib/postgresql/{}/bin"
"""Where postgresql-common looks for programs (PgCommon.pm), and nowhere else."""

PLACE_OF_ROOT = Path("/var/lib/tde/bin")
"""Where root puts directories of stand-ins."""

_OPTIONS = re.compile(r"^[ \t]*pg_ctl_options[ \t]*=?[ \t]*(?P<value>'[^'\n]*'|\S*)[^\n]*$", re.M)


@dataclass(frozen=True)
class Registration:
    """How pg_ctlcluster starts an encrypted cluster.

    Attributes:
        cluster: of postgresql-common.
        programs: the directory of stand-ins.
        keystore: that opens by itself at each start.
    """

    cluster: DebianCluster
    programs: BinDirectory
    keystore: Path


def register_cluster(
    cluster: DebianCluster,
    keystore: Path | None = None,
    *,
    directory: Path | None = None,
    bindir: Path | None = None,
) -> Registration:
    """Let pg_ctlcluster start an encrypted cluster from its next start on; repeat it at will.

    Args:
        keystore: by default the one that the cluster remembers.
        directory: for the stand-ins, one for each cluster.
        bindir: PostgreSQL's programs; those that pg_ctlcluster itself runs by default.

    Raises:
        ClusterKeystoreError: the cluster is plain, or the keystore does not open by itself.
        DataDirectoryError: pg_ctl.conf already names another server program.
        TdeError: the directory cannot be made.
    """
    from tde.keystore.opening import open_unattended

    marker = _require_encrypted(cluster)
    os_user = server_os_user(cluster.data_directory)
    programs = (directory or default_directory(cluster)).absolute()
    options = _Options.of(cluster)
    options.require_replaceable(programs)
    _require_free(programs, marker)
    found = find_binaries(
        bindir or Path(PROGRAMS_OF_VERSION.format(cluster.major)), major=cluster.major
    )
    with open_unattended(keystore or marker.keystore) as opened:
        if opened.uuid != marker.keystore_uuid:
            raise ClusterKeystoreError(f"{cluster} is encrypted with another keystore's keys")
        made = install_bin_directory(programs, found, os_user, keystore=opened)
    # A cluster that was restored has the configuration of its new machine.
    ensure_guards(cluster.data_directory, marker.keystore, (), os_user)
    options.with_server(programs).write()
    return Registration(cluster, made, keystore or marker.keystore)


def unregister_cluster(cluster: DebianCluster) -> Path | None:
    """Take it back: pg_ctlcluster starts PostgreSQL's own server again, and the stand-ins go.

    Stand-ins elsewhere than in :func:`default_directory` stay: pg_ctl.conf may belong to the
    server's user, who must not choose what root removes.

    Returns:
        The directory of the stand-ins; ``None`` when none was registered.

    Raises:
        OSError: a file cannot be changed.
    """
    directory = registered_programs(cluster)
    if directory is None:
        return None
    _Options.of(cluster).without_server().write()
    if directory == default_directory(cluster):
        shutil.rmtree(directory)
    return directory


def registered_programs(cluster: DebianCluster) -> Path | None:
    """Return the directory of stand-ins with which pg_ctlcluster starts a cluster, if any."""
    server = _Options.of(cluster).server
    return server.parent if server is not None and is_bin_directory(server.parent) else None


def refresh_registered() -> tuple[list[BinDirectory], list[TdeError]]:
    """Bring the stand-ins of all registered clusters and versions up to date with this tde.

    Only those in the place that is this user's own: what pg_ctl.conf names elsewhere may be the
    server user's, who must not choose where root writes.

    Returns:
        The directories that were brought up to date, and what was wrong with others.

    Raises:
        InterposerError: the C programs were not built.
    """
    refreshed, failed = [], []
    for directory in sorted(_own_place().glob("*")):
        if not is_bin_directory(directory):
            continue
        try:
            refreshed.append(refresh_bin_directory(directory))
        except InterposerError:
            raise
        except TdeError as error:
            failed.append(error)
    return refreshed, failed


def default_directory(cluster: DebianCluster) -> Path:
    """Return where the stand-ins of a cluster lie; root makes them out of the server's reach."""
    return _own_place() / f"{cluster.major}-{cluster.name}"


def _own_place() -> Path:
    if os.geteuid() == 0:
        return PLACE_OF_ROOT
    home = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(home) / "tde" / "bin"


def _require_free(programs: Path, marker: Marker) -> None:
    """Refuse a directory of stand-ins that hands over the keys of another keystore."""
    other = read_marker(programs) if is_bin_directory(programs) else None
    if other is not None and other.keystore_uuid != marker.keystore_uuid:
        raise DataDirectoryError(
            f"the programs in {programs} hand over the keys of {other.keystore}",
            remedy="Name another directory with --bin.",
        )


def _require_encrypted(cluster: DebianCluster) -> Marker:
    marker = read_marker(cluster.data_directory)
    if marker is None:
        raise ClusterKeystoreError(
            f"{cluster} is not encrypted, so there is nothing to register",
            remedy=f"Stop it, encrypt it, and register it then: pg_ctlcluster {cluster.major} "
            f"{cluster.name} stop; tde pg encrypt -D {cluster.data_directory} --keystore DIR",
        )
    return marker


@dataclass(frozen=True)
class _Options:
    """pg_ctl.conf of a cluster, and the options for pg_ctl in it."""

    path: Path
    content: str

    @classmethod
    def of(cls, cluster: DebianCluster) -> _Options:
        """Read them; no link is followed.

        The directory may belong to the server's user, to whom root would give a copy of any file.

        Raises:
            DataDirectoryError: it is no file of the directory's owner.
        """
        return cls._in(cluster.directory)

    @classmethod
    def _in(cls, directory: Path) -> _Options:
        try:
            content = read_cluster_file(directory, OPTIONS_FILE)
        except FileNotFoundError:
            content = b""
        return cls(directory / OPTIONS_FILE, content.decode(errors="surrogateescape"))

    @property
    def _words(self) -> list[str]:
        """The options; pg_ctlcluster splits them at spaces, and takes the last line of several."""
        found = [match["value"] for match in _OPTIONS.finditer(self.content)]
        return found[-1].strip("'").split() if found else []

    @property
    def _servers(self) -> list[tuple[int, int]]:
        """Where in the words the server program is named: the first one, and behind the last."""
        words = self._words
        together = [(at, at + 1) for at, word in enumerate(words) if re.match("-p.", word)]
        apart = [(at, at + 2) for at, word in enumerate(words[:-1]) if word == "-p"]
        return sorted(together + apart)

    @property
    def server(self) -> Path | None:
        """The program that ``-p`` names, as getopt finds it: the last one counts."""
        if not self._servers:
            return None
        begin, end = self._servers[-1]
        return Path("".join(self._words[begin:end]).removeprefix("-p"))

    def require_replaceable(self, programs: Path) -> None:
        server = self.server
        if server is not None and not is_bin_directory(server.parent):
            raise DataDirectoryError(
                f"pg_ctl_options in {self.path} names another server program: {server}",
                remedy="Take -p out of it, or put that program's directory into PATH instead.",
            )
        if re.search(r"[\s'\"\\]", str(programs)):
            raise TdeError(
                f"pg_ctlcluster splits its options at spaces, and cannot be told of {programs}",
                remedy="Name a directory without spaces and quotes with --bin.",
            )

    def with_server(self, programs: Path) -> _Options:
        kept = self.without_server()
        return kept._with_words(["-p", str(programs / "postgres"), *kept._words])

    def without_server(self) -> _Options:
        named = {at for begin, end in self._servers for at in range(begin, end)}
        words = [word for at, word in enumerate(self._words) if at not in named]
        return self._with_words(words) if named else self

    def _with_words(self, words: list[str]) -> _Options:
        line = f"pg_ctl_options = '{' '.join(words)}'"
        matches = list(_OPTIONS.finditer(self.content))
        if not matches:
            newline = "\n" if self.content and not self.content.endswith("\n") else ""
            return _Options(self.path, f"{self.content}{newline}{line}\n")
        last = matches[-1]
        return _Options(self.path, self.content[: last.start()] + line + self.content[last.end() :])

    def write(self) -> None:
        directory = self.path.parent
        if self == self._in(directory):
            return
        try:
            mode = 0o644 & self.path.lstat().st_mode
        except FileNotFoundError:
            mode = 0o644
        write_owned_file(self.path, self.content, user_of_files(directory), mode=mode)
