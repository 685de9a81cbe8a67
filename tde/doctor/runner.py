"""Running the checks and putting their outcomes together."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path

from tde.doctor import clusters, keystores, leftovers, programs
from tde.doctor.examined import Subject
from tde.doctor.report import DoctorReport, Finding, Group, Outcome, unknown
from tde.doctor.settings import Settings, read_settings
from tde.errors import PostgresError, TdeError
from tde.machine import checks as machine
from tde.machine.kernel_files import MachineFiles
from tde.postgres.cluster.cluster import Cluster
from tde.postgres.cluster.marker import Marker
from tde.postgres.server.binaries import PostgresBinaries, find_binaries
from tde.postgres.server.control import read_major_version
from tde.postgres.server.os_user import OsUser, server_os_user
from tde.postgres.server.reachable import reachable_binaries

_AS_OWNER = "Run this as the owner of the data directory, or as root."


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
    run: Callable[[Subject], Iterator[Outcome]]
    needs: _Needs = _Needs.NOTHING


CHECKS = (
    Check("swap", "Swap space", Group.MACHINE, machine.check_swap),
    Check("core_dumps", "Core dumps", Group.MACHINE, machine.check_core_dumps),
    Check("locked_memory", "Locked memory", Group.MACHINE, machine.check_locked_memory),
    Check("aes", "AES instructions", Group.MACHINE, machine.check_aes),
    Check("installation", "Installation", Group.PROGRAM, programs.check_installation),
    *(
        Check(name, title, Group.PROGRAM, run, _Needs.BINARIES)
        for name, title, run in (
            ("file_calls", "File calls", programs.check_file_calls),
            ("page_sizes", "Page sizes", programs.check_page_sizes),
            ("preload", "Interposer", programs.check_preload),
            ("openssl", "OpenSSL", programs.check_openssl),
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
            ("data_directory", "Data directory", clusters.check_data_directory),
            ("configuration", "Configuration", clusters.check_configuration),
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
        subject = Subject(files, user)
        if Group.PROGRAM in groups:
            subject = replace(subject, found_binaries=_installation(binaries, user))
    else:
        cluster = Cluster(data_directory, binaries, os_user=os_user)
        if _is_readable(cluster.data_directory):
            subject = _examine(cluster, files, keystore)
            if not {Group.CLUSTER, Group.LEFTOVERS}.isdisjoint(groups):
                subject = _with_settings(subject, cluster, username)
        else:
            found = _installation(binaries, cluster.os_user)
            subject = Subject(files, cluster.os_user, cluster, readable=False, found_binaries=found)
    return _report(subject, groups)


def _is_readable(data_directory: Path) -> bool:
    """Tell whether a cluster may be looked at; one that is not there is an error."""
    try:
        (data_directory / "PG_VERSION").read_bytes()
    except PermissionError:
        return False
    except OSError:
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


def _examine(cluster: Cluster, files: MachineFiles, keystore: Path | None) -> Subject:
    """Find out what the checks need to know about a cluster."""
    subject = Subject(
        files,
        cluster.os_user,
        cluster,
        pid=cluster.pid,
        found_marker=_marker_of(cluster),
        keystore=keystore,
    )
    if keystore is None and subject.marker is not None:
        subject = replace(subject, keystore=subject.marker.keystore)
    try:
        return replace(subject, found_binaries=cluster.binaries)
    except TdeError as error:
        return replace(subject, found_binaries=error)


def _with_settings(subject: Subject, cluster: Cluster, username: str | None) -> Subject:
    try:
        return replace(subject, found_settings=read_settings(cluster, username=username))
    except TdeError as error:
        return replace(subject, found_settings=error)
    except (OSError, subprocess.SubprocessError) as error:
        return replace(subject, found_settings=PostgresError(str(error), remedy=_AS_OWNER))


def _marker_of(cluster: Cluster) -> Marker | TdeError | None:
    try:
        return cluster.marker
    except TdeError as error:
        return error


def _report(subject: Subject, groups: Collection[Group]) -> DoctorReport:
    findings: list[Finding] = []
    for check in CHECKS:
        if check.group not in groups:
            continue
        if check.needs is _Needs.BINARIES and not subject.has_binaries:
            continue  # The line Installation has said why.
        if check.needs is _Needs.CLUSTER and not (subject.cluster and subject.readable):
            continue
        for outcome in _outcomes(check, subject):
            findings.append(Finding(check.name, check.group, check.title, **vars(outcome)))
    settings = subject.found_settings
    return DoctorReport(
        data_directory=None if subject.cluster is None else subject.cluster.data_directory,
        server_version=subject.binaries.version_text if subject.has_binaries else None,
        pid=subject.pid,
        settings_source=settings.source if isinstance(settings, Settings) else "",
        findings=tuple(findings),
    )


def _outcomes(check: Check, subject: Subject) -> Iterator[Outcome]:
    """Run one check; whatever keeps it from looking is an outcome as well."""
    try:
        yield from check.run(subject)
    except TdeError as error:
        yield unknown(str(error), error.remedy or _AS_OWNER)
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        yield unknown(str(error), _AS_OWNER)
