"""The directories of an audit, and what is known of each before it is walked."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from tde.audit import backrest, barman
from tde.audit.facts import facts_of_manifest, facts_of_tars
from tde.audit.findings import not_judged_finding
from tde.audit.inventory import Layout, Place, PlaceKind
from tde.audit.report import Finding
from tde.audit.tar import TarArchive
from tde.errors import DataDirectoryError, TdeError
from tde.postgres.cluster.cluster import Cluster
from tde.postgres.cluster.unfinished_conversion import read_finished_control_data
from tde.postgres.facts import CLEAN_STATES, MAJOR_VERSIONS
from tde.postgres.server.control import ControlData, read_major_version


def find_places(
    cluster: Cluster, archives: Sequence[Path], backups: Sequence[Path], stack: ExitStack
) -> Places:
    """Return the cluster, then the archives, then the backups.

    Args:
        backups: base backups, or whole repositories of pgBackRest and servers' directories of
            Barman, with the WAL in them.
        stack: ends with the audit, and with it what is unpacked here.

    Raises:
        DataDirectoryError: one of the directories is not what it should be.
        OSError: one cannot be read.
        ProgramError: pg_controldata failed.
    """
    places = Places(cluster, stack)
    for directory in archives:
        places.add_archive(_require_directory(directory, "WAL archive"))
    for directory in backups:
        places.add_backup(_require_directory(directory, "base backup"))
    return places


class Places:
    """Finds the places of an audit, the cluster first.

    Args:
        stack: ends with the audit, and what was unpacked for it.

    Attributes:
        found: the places.
        findings: what cannot be judged at all.
        warnings: what is not this cluster's.
    """

    def __init__(self, cluster: Cluster, stack: ExitStack) -> None:
        self._cluster = cluster
        self._stack = stack
        self.findings: list[Finding] = []
        self.warnings: list[Finding] = []
        directory = cluster.data_directory
        major = read_major_version(directory)
        live = cluster.pid is not None
        self._control = _control(cluster, directory)
        pending = _replay_pending(directory, self._control, live)
        self.found = [Place(PlaceKind.CLUSTER, directory, major, self._control, pending, live)]

    def add_archive(self, root: Path, major: int | None = None) -> None:
        """Add a WAL archive; of the cluster's version, when it is not known."""
        # A server that is not this one may be archiving, and copying takes time.
        major = major or self.found[0].major
        self.found.append(Place(PlaceKind.ARCHIVE, root, major, self._control, False, True))

    def add_backup(self, root: Path) -> None:
        """Add a base backup, or all that is in a repository.

        Raises:
            DataDirectoryError: it is neither.
            OSError: it cannot be read.
            ProgramError: pg_controldata failed.
        """
        if (root / "PG_VERSION").exists():
            self._add_place(root, root)
        elif backrest.is_backup(root):
            self._add_backup_of_backrest(root)
        elif tars := barman.tars_of(root):
            facts = facts_of_tars(tars, root, self._stack)
            self._add_place(root, facts, layout=Layout.TAR, tars=tars)
        elif (data := barman.data_of(root)) is not None:
            if (data / "PG_VERSION").exists():
                self._add_place(data, data, tablespaces=barman.tablespaces_of(root))
            else:
                self.add_backup(data)
        elif backrest.is_repository(root):
            for stanza in backrest.stanzas(root):
                self._add_stanza(stanza)
        elif barman.is_server(root):
            findings, warnings = barman.strays_of(root)
            self.findings += findings
            self.warnings += warnings
            for backup in barman.backups_of(root):
                self._add_part(backup)
            for archive in barman.archives_of(root):
                self.add_archive(archive)
        else:
            raise DataDirectoryError(
                f"{root} is not a base backup: there is neither PG_VERSION nor base.tar in it",
                remedy="Name a backup of pg_basebackup, a repository of pgBackRest (repo1-path), "
                "a server's directory of Barman, or unpack the backup and name what that has made.",
            )

    def _add_backup_of_backrest(self, root: Path) -> None:
        manifest = backrest.read_manifest(root)
        if isinstance(manifest, Finding):
            self.findings.append(manifest)
            return
        self._add_place(root, facts_of_manifest(manifest, self._stack), layout=Layout.BACKREST)

    def _add_place(
        self,
        root: Path,
        home: Path,
        *,
        layout: Layout = Layout.FILES,
        tars: tuple[TarArchive, ...] = (),
        tablespaces: tuple[tuple[int, Path], ...] = (),
    ) -> None:
        control = _control(self._cluster, home)
        self.found.append(
            Place(
                PlaceKind.BACKUP,
                root,
                read_major_version(home),
                control,
                _replay_pending(home, control, False),
                live=False,
                layout=layout,
                facts=None if home == root else home,
                tablespaces=tablespaces,
                tars=tars,
            )
        )

    def _add_stanza(self, stanza: backrest.Stanza) -> None:
        if stanza.encrypted:
            for directory in (stanza.backup, stanza.archive):
                self.findings.append(backrest.encrypted_finding(directory))
            return
        if self._control.system_identifier not in stanza.systems:
            self.warnings.append(
                not_judged_finding(
                    stanza.backup,
                    f"was not judged: the stanza {stanza.name} is of another cluster",
                    "Audit that cluster with the same repository.",
                )
            )
            return
        self.findings += stanza.strays()
        for backup in stanza.backups():
            self._add_part(backup)
        for archive, major in stanza.archives():
            if major in MAJOR_VERSIONS:
                self.add_archive(archive, major)
            else:
                self.findings.append(_of_unknown_version(archive, major))

    def _add_part(self, backup: Path) -> None:
        """Add a backup that was found; if it is damaged, the others are judged all the same."""
        try:
            self.add_backup(backup)
        except (TdeError, OSError) as error:
            problem = f"was not judged: {error}"
            self.findings.append(
                not_judged_finding(backup, problem, "Take another backup, and expire this one.")
            )


def _of_unknown_version(archive: Path, major: int) -> Finding:
    return not_judged_finding(
        archive,
        f"was not judged: it holds WAL of PostgreSQL {major}, which tde does not know",
        "If nothing is restored from it any more, expire it.",
    )


def _control(cluster: Cluster, directory: Path) -> ControlData:
    # As the caller, who must be able to read all files anyway, and not as the server's user.
    return read_finished_control_data(directory, cluster.binaries, None)


def _replay_pending(directory: Path, control: ControlData, live: bool) -> bool:
    """Tell whether recovery has still to repair pages that a copy or a crash has torn."""
    if live:
        return control.state not in ("in production", *CLEAN_STATES)
    return control.state not in CLEAN_STATES or (directory / "backup_label").exists()


def _require_directory(directory: Path, what: str) -> Path:
    root = directory.absolute()
    if not root.is_dir():
        raise DataDirectoryError(
            f"there is no {what} in {directory}: it is not a directory",
            remedy="Check the path.",
        )
    return root
