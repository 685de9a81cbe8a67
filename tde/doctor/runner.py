"""Running the checks and putting their outcomes together."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace
from enum import Enum
from functools import partial
from pathlib import Path

from tde.doctor import archiving, clusters, keystores, leftovers, libcrypto, programs
from tde.doctor.archiver import ask_for_archiver
from tde.doctor.examined import AS_OWNER, Examined
from tde.doctor.report import DoctorReport, Finding, Group
from tde.doctor.settings import Settings, read_settings
from tde.errors import PostgresError, TdeError
from tde.machine.checks import MACHINE_CHECKS, MachineCheck
from tde.machine.kernel_files import MachineFiles
from tde.machine.verdict import Outcome, outcomes_of
from tde.postgres.cluster.cluster import Cluster
from tde.postgres.cluster.marker import Marker
from tde.postgres.server.binaries import PostgresBinaries, find_binaries
from tde.postgres.server.cluster_files import read_cluster_file
from tde.postgres.server.control import read_major_version
from tde.postgres.server.os_user import OsUser, server_os_user
from tde.postgres.server.reachable import reachable_binaries
from tde.postgres.tablespace.plain_copies import find_plain_copies


class _Needs(Enum):
    """What must be there for a check to make sense."""

    NOTHING = 0
    BINARIES = 1
    CLUSTER = 2


@dataclass(frozen=True)
class Check:
    """A check under the name and title by which it is reported."""

    name: str
    title: str
    group: Group
    run: Callable[[Examined], Iterator[Outcome]]
    needs: _Needs = _Needs.NOTHING


def _of_machine(check: MachineCheck) -> Callable[[Examined], Iterator[Outcome]]:
    """Let a check of the machine look at what the doctor examines."""
    return lambda examined: check.run(examined.machine, examined.server)


CHECKS = (
    *(
        Check(check.name, check.title, Group.MACHINE, _of_machine(check))
        for check in MACHINE_CHECKS
    ),
    Check("installation", "Installation", Group.PROGRAM, programs.check_installation),
    *(
        Check(name, title, Group.PROGRAM, run, _Needs.BINARIES)
        for name, title, run in (
            ("file_calls", "File calls", programs.check_file_calls),
            ("page_sizes", "Page sizes", programs.check_page_sizes),
            ("preload", "Interposer", programs.check_preload),
            ("openssl", "OpenSSL", libcrypto.check_openssl),
        )
    ),
    Check("access", "Access", Group.CLUSTER, clusters.check_access),
    *(
        Check(name, title, Group.CLUSTER, run, _Needs.CLUSTER)
        for name, title, run in (
            ("encryption", "Encryption", clusters.check_encryption),
            ("server", "Server", clusters.check_server),
            ("keystore", "Keystore", keystores.check_keystore),
            ("auto_open", "Auto-open", keystores.check_auto_open),
            ("key_ages", "Key ages", keystores.check_key_ages),
            ("plain_copies", "Plaintext copies", clusters.check_plain_copies),
            ("data_directory", "Data directory", clusters.check_data_directory),
            ("configuration", "Configuration", clusters.check_configuration),
            ("new_lines", "Programs and libraries", clusters.check_new_lines),
            ("archiving", "WAL archiving", archiving.check_archiving),
            ("io_settings", "I/O settings", clusters.check_io_settings),
            ("checksums", "Data checksums", clusters.check_checksums),
            ("full_page_writes", "full_page_writes", clusters.check_full_page_writes),
            ("wal_log_hints", "wal_log_hints", clusters.check_wal_log_hints),
        )
    ),
    *(
        Check(name, title, Group.LEFTOVERS, run, _Needs.CLUSTER)
        for name, title, run in (
            ("log_access", "Log files", leftovers.check_log_access),
            ("log_content", "Log content", leftovers.check_statements_in_log),
            ("statement_texts", "Statement texts", leftovers.check_statement_texts),
            ("passwords", "Passwords", leftovers.check_passwords),
        )
    ),
)


def doctor(
    data_directory: Path | None = None,
    binaries: PostgresBinaries | None = None,
    *,
    os_user: OsUser | None = None,
    keystore: Path | None = None,
    username: str | None = None,
    groups: Collection[Group] = tuple(Group),
    machine_files: MachineFiles | None = None,
) -> DoctorReport:
    """Tell whether a machine, an installation and a cluster are fit for encryption.

    Nothing is changed and no passphrase is needed. The server may run or not.

    Args:
        data_directory: of a cluster; without one, only machine and installation are looked at.
        binaries: the installation; by default the first one found that fits the cluster.
        os_user: the user that runs the server; by default :func:`server_os_user` decides.
        keystore: where the cluster's keystore is now; where it was last when ``None``.
        username: database user for the questions to a running server; by default the superuser
            that initdb made.
        groups: what to look at.
        machine_files: where the files of the kernel are read; the running kernel's by default.

    Raises:
        NoDataDirectoryError: there is no cluster in ``data_directory``.
    """
    files = machine_files or MachineFiles()
    if data_directory is None:
        user = os_user or server_os_user(None)
        examined = Examined(files, user)
        if Group.PROGRAM in groups:
            examined = replace(examined, found_binaries=_installation(binaries, user))
    else:
        cluster = Cluster(data_directory, binaries, os_user=os_user)
        if _is_readable(cluster.data_directory):
            examined = _examine(cluster, files, keystore)
            if not {Group.CLUSTER, Group.LEFTOVERS}.isdisjoint(groups):
                examined = _with_settings(examined, cluster, username)
            if Group.CLUSTER in groups:
                examined = _with_copies(examined, cluster, username)
                examined = _with_archiver(examined, cluster, username)
        else:
            found = _installation(binaries, cluster.os_user)
            examined = Examined(
                files, cluster.os_user, cluster, readable=False, found_binaries=found
            )
    return _report(examined, groups)


def _is_readable(data_directory: Path) -> bool:
    """Tell whether a cluster may be looked at; one that is not there is an error."""
    try:
        read_cluster_file(data_directory, "PG_VERSION")
    except PermissionError:
        return False
    except (OSError, TdeError):
        pass  # What is wrong is said by the next line.
    read_major_version(data_directory)
    return True


def _installation(
    binaries: PostgresBinaries | None, user: OsUser | None
) -> PostgresBinaries | TdeError:
    try:
        return reachable_binaries(binaries or find_binaries(), user)
    except TdeError as error:
        return error


def _examine(cluster: Cluster, files: MachineFiles, keystore: Path | None) -> Examined:
    """Find out what the checks need to know about a cluster."""
    pid, pid_problem = None, None
    try:
        pid = cluster.pid
    except TdeError as error:
        pid_problem = error
    examined = Examined(
        files,
        cluster.os_user,
        cluster,
        pid=pid,
        pid_problem=pid_problem,
        found_marker=_marker_of(cluster),
        keystore=keystore,
    )
    if keystore is None and examined.marker is not None:
        examined = replace(examined, keystore=examined.marker.keystore)
    try:
        return replace(examined, found_binaries=cluster.binaries)
    except TdeError as error:
        return replace(examined, found_binaries=error)


def _with_settings(examined: Examined, cluster: Cluster, username: str | None) -> Examined:
    try:
        return replace(examined, found_settings=read_settings(cluster, username=username))
    except TdeError as error:
        return replace(examined, found_settings=error)
    except (OSError, subprocess.SubprocessError) as error:
        return replace(examined, found_settings=PostgresError(str(error), remedy=AS_OWNER))


def _with_copies(examined: Examined, cluster: Cluster, username: str | None) -> Examined:
    if examined.marker is None or not examined.has_binaries:
        return examined
    try:
        copies = find_plain_copies(cluster, examined.keystore, username=username)
    except TdeError as error:
        return replace(examined, plain_copies=error)
    return replace(examined, plain_copies=copies)


def _with_archiver(examined: Examined, cluster: Cluster, username: str | None) -> Examined:
    if examined.pid is None or not isinstance(examined.found_settings, Settings):
        return examined
    if examined.found_settings.value("archive_mode") in ("", "off"):
        return examined
    try:
        return replace(examined, archiver=ask_for_archiver(cluster, username))
    except (TdeError, OSError, ValueError, subprocess.SubprocessError) as error:
        known = error if isinstance(error, TdeError) else PostgresError(str(error))
        return replace(examined, archiver=known)


def _marker_of(cluster: Cluster) -> Marker | TdeError | None:
    try:
        return cluster.marker
    except TdeError as error:
        return error


def _report(examined: Examined, groups: Collection[Group]) -> DoctorReport:
    findings: list[Finding] = []
    for check in CHECKS:
        if check.group not in groups:
            continue
        if check.needs is _Needs.BINARIES and not examined.has_binaries:
            continue  # The line Installation has said why.
        if check.needs is _Needs.CLUSTER and not (examined.cluster and examined.readable):
            continue
        for outcome in outcomes_of(partial(check.run, examined), AS_OWNER):
            findings.append(Finding(check.name, check.group, check.title, **vars(outcome)))
    settings = examined.found_settings
    return DoctorReport(
        data_directory=None if examined.cluster is None else examined.cluster.data_directory,
        server_version=examined.binaries.version_text if examined.has_binaries else None,
        pid=examined.pid,
        settings_source=settings.source if isinstance(settings, Settings) else "",
        findings=tuple(findings),
    )
