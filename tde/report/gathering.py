"""Gathering what a report says. What cannot be looked at becomes a part of it, with the reason."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import Protocol, TypeVar
from uuid import uuid4

from tde.audit import AuditObserver, AuditReport, audit
from tde.audit.places import find_places
from tde.doctor import DoctorReport, doctor
from tde.errors import ClusterKeystoreError, TdeError
from tde.keystore import Keystore as OpenKeystore
from tde.keystore.log.entry import current_author
from tde.machine.verdict import Verdict as DoctorVerdict
from tde.postgres.cluster.cluster import Cluster
from tde.postgres.cluster.marker import Marker, require_matching_keystore
from tde.postgres.cluster.questions import ask_server
from tde.postgres.cluster.unfinished_conversion import (
    read_finished_control_data,
    require_not_converting,
)
from tde.postgres.server.interposer import is_interposed
from tde.report.keys import key_log, key_rows, keystore_facts, life_of, secret_problems
from tde.report.libraries import libraries
from tde.report.model import (
    Machine,
    Maker,
    NotExamined,
    Report,
    Section,
    Server,
    Tablespace,
)
from tde.version import __version__

_T = TypeVar("_T")
_TABLESPACES = """
SELECT coalesce(json_agg(json_build_array(t.oid, t.spcname, pg_tablespace_location(t.oid),
  (SELECT coalesce(json_agg(d.datname ORDER BY d.datname), '[]'::json)
     FROM pg_database d WHERE d.dattablespace = t.oid)) ORDER BY t.oid), '[]'::json)
FROM pg_tablespace t
"""
_KEY_AGES = "key_ages"
_NO_AUDIT = "the report was made without the audit (--no-audit)"


class ReportObserver(AuditObserver, Protocol):
    """Receives the progress of a report, and that of its audit."""

    def begins(self, what: str) -> None:
        """Say what is looked at now."""


def gather(
    cluster: Cluster,
    keystore: OpenKeystore,
    *,
    archives: Sequence[Path] = (),
    backups: Sequence[Path] = (),
    with_audit: bool = True,
    jobs: int | None = None,
    username: str | None = None,
    observer: ReportObserver | None = None,
) -> Report:
    """Look at a cluster, its keystore and its machine. Nothing is changed; the server may run.

    Args:
        keystore: the cluster's, open.
        archives, backups: for the audit, as for :func:`tde.postgres.audit`.
        with_audit: whether to read every file; without that, the report proves no encryption.
        jobs: threads of the audit.
        username: a superuser of the database, to ask the server as.

    Raises:
        ClusterKeystoreError: the cluster is not encrypted, or the keystore is not its own.
        ConversionError: a conversion is unfinished.
        DataDirectoryError: there is no cluster, archive or backup in a directory.
    """
    marker = _require_encrypted(cluster, keystore)
    if archives or backups:
        # A directory that was mistyped is an error, and not something that was not examined.
        with ExitStack() as stack:
            find_places(cluster, archives, backups, stack)
    gathering = _Gathering(observer)
    now = datetime.now(timezone.utc).replace(microsecond=0)
    life = gathering.examine(
        Section.KEYS, "the states and ages of keys", lambda: life_of(keystore, cluster)
    )
    return Report(
        id=uuid4(),
        made=now,
        maker=_maker(),
        machine=_machine(),
        server=_server(cluster, marker, gathering),
        archives=tuple(path.absolute() for path in archives),
        backups=tuple(path.absolute() for path in backups),
        libraries=tuple(
            library
            for what, look in libraries(cluster)
            if (library := gathering.examine(Section.CRYPTOGRAPHY, what, look)) is not None
        ),
        key_log=gathering.examine(Section.KEY_LOG, "the key log", lambda: key_log(keystore)),
        keystore=None
        if life is None
        else gathering.examine(
            Section.KEYS, "the keystore", lambda: keystore_facts(keystore, life)
        ),
        keys=()
        if life is None
        else gathering.examine(Section.KEYS, "the keys", lambda: key_rows(keystore, life, now))
        or (),
        secret_problems=() if life is None else secret_problems(life, now),
        doctor=gathering.doctor(cluster, keystore, username),
        tablespaces=gathering.tablespaces(cluster, keystore, username),
        audit=gathering.audit(
            lambda: audit(
                cluster,
                keystore,
                archives=archives,
                backups=backups,
                jobs=jobs,
                observer=observer,
                username=username,
            ),
            wanted=with_audit,
        ),
        # The last argument, so it has what all of the others have left out.
        not_examined=tuple(gathering.not_examined),
    )


def _require_encrypted(cluster: Cluster, keystore: OpenKeystore) -> Marker:
    require_not_converting(cluster.data_directory)
    marker = cluster.marker
    if marker is None:
        raise ClusterKeystoreError(
            f"the cluster {cluster.data_directory} is not encrypted: there is nothing to report",
            remedy="Encrypt it with tde pg encrypt, or create another one with tde pg init.",
        )
    require_matching_keystore(cluster.data_directory, marker, keystore.uuid)
    return marker


class _Gathering:
    """Looks at one thing after the other, and remembers what could not be looked at."""

    def __init__(self, observer: ReportObserver | None) -> None:
        self._observer = observer
        self.not_examined: list[NotExamined] = []

    def examine(self, section: Section, what: str, look: Callable[[], _T]) -> _T | None:
        """Return what a look gives; ``None`` when something keeps from looking."""
        if self._observer is not None:
            self._observer.begins(what)
        try:
            return look()
        except TdeError as error:
            remedy = f" {error.remedy}" if error.remedy else ""
            self.leave_out(section, what, f"{error}.{remedy}")
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            self.leave_out(section, what, str(error))
        return None

    def leave_out(self, section: Section, what: str, why: str) -> None:
        """Remember something that was not looked at."""
        self.not_examined.append(NotExamined(section, what, " ".join(why.split())))

    def audit(self, look: Callable[[], AuditReport], *, wanted: bool) -> AuditReport | None:
        """Return the audit's report, and remember what it has left out."""
        what = "every block of every file"
        if not wanted:
            self.leave_out(Section.PROOF, what, _NO_AUDIT)
            return None
        report = self.examine(Section.PROOF, what, look)
        if report is not None:
            copies = report.plain_copies
            if copies.obstacle:
                self.leave_out(Section.PLAINTEXT, "plaintext copies of tables", copies.obstacle)
            for database, why in copies.unread.items():
                what = f"plaintext copies of tables in database {database}"
                self.leave_out(Section.PLAINTEXT, what, why)
        return report

    def doctor(
        self, cluster: Cluster, keystore: OpenKeystore, username: str | None
    ) -> DoctorReport | None:
        """Return the doctor's report, and remember what it could not look at."""
        report = self.examine(
            Section.MACHINE,
            "the machine, the programs and the configuration",
            lambda: doctor(
                cluster.data_directory,
                cluster.binaries,
                os_user=cluster.os_user,
                keystore=keystore.path,
                username=username,
            ),
        )
        if report is not None:
            for finding in report.of(DoctorVerdict.UNKNOWN):
                if finding.check == _KEY_AGES:
                    continue  # The chapter on keys knows more: the keystore is open.
                self.leave_out(Section.MACHINE, finding.title, finding.detail)
        return report

    def tablespaces(
        self, cluster: Cluster, keystore: OpenKeystore, username: str | None
    ) -> tuple[Tablespace, ...]:
        """Return the tablespaces by their names, which only a running server tells."""
        what = "the names of tablespaces and databases"
        if cluster.pid is None:
            return ()  # They are in catalogs, and prove nothing: the numbers are in the audit.
        return (
            self.examine(
                Section.SYSTEM, what, lambda: _tablespaces(cluster, keystore.path, username)
            )
            or ()
        )


def _tablespaces(cluster: Cluster, keystore: Path, username: str | None) -> tuple[Tablespace, ...]:
    from tde.keystore import inspect_keystore
    from tde.postgres.cluster.landed_keys import known_map
    from tde.postgres.cluster.protection import Protections

    rows = ask_server(cluster, _TABLESPACES, username=username)
    keymap = known_map(cluster.data_directory, keystore, None)
    known = Protections(keymap, inspect_keystore(keystore).keys)
    return tuple(
        Tablespace(
            int(oid),
            str(name),
            str(location),
            known.of(int(oid)),
            known.key_file(int(oid)) or "",
            tuple(map(str, databases)),
        )
        for oid, name, location, databases in rows
    )


def _server(cluster: Cluster, marker: Marker, gathering: _Gathering) -> Server:
    control = gathering.examine(
        Section.SYSTEM,
        "the control file",
        lambda: read_finished_control_data(
            cluster.data_directory, cluster.binaries, cluster.os_user
        ),
    )
    pid = cluster.pid
    return Server(
        data_directory=cluster.data_directory,
        version=cluster.binaries.version_text,
        programs=cluster.binaries.bindir,
        running=pid is not None,
        pid=pid,
        has_interposer=None
        if pid is None
        else gathering.examine(Section.SYSTEM, "the server's process", lambda: is_interposed(pid)),
        state="" if control is None else control.state,
        data_checksums=None if control is None else control.data_checksums,
        system_identifier=None if control is None else control.system_identifier,
        scope=marker.scope.value,
    )


def _maker() -> Maker:
    author = current_author()
    return Maker(
        user=str(author["user"]),
        login=str(author.get("login", "")),
        host=str(author["host"]),
        release=__version__,
        python=platform.python_version(),
    )


def _machine() -> Machine:
    try:
        system = platform.freedesktop_os_release().get("PRETTY_NAME", "")
    except OSError:
        system = ""
    machine = platform.uname()
    return Machine(
        host=machine.node,
        system=system or machine.system,
        kernel=f"{machine.system} {machine.release}",
        architecture=machine.machine,
        processor=_processor(),
    )


def _processor() -> str:
    """Return the name of the processor; empty where the kernel does not tell."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return ""
