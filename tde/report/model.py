"""What a report says: typed, immutable, and without a look at any file.

What could not be looked at is part of it, with the reason: an auditor must see what was not proven.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from enum import Enum
from pathlib import Path
from typing import Any
from uuid import UUID

from tde.audit import AuditReport
from tde.doctor import DoctorReport
from tde.machine.verdict import Verdict as DoctorVerdict

SCHEMA = 1
"""Of the JSON document; it grows when a field changes its meaning."""


class Verdict(str, Enum):
    """The report in one word."""

    CLEAN = "clean"
    """Everything was examined, and nothing was found."""
    INCOMPLETE = "incomplete"
    """Nothing was found in what was examined; some of it was not."""
    FINDINGS = "findings"


class Section(str, Enum):
    """The chapters with facts, in their order."""

    SYSTEM = "System"
    CRYPTOGRAPHY = "Cryptography"
    PROOF = "Proof of encryption"
    PLAINTEXT = "Plaintext"
    KEYS = "Keys"
    KEY_LOG = "Key log"
    MACHINE = "Machine and configuration"


@dataclass(frozen=True)
class NotExamined:
    """Something that could not be looked at, or was left out."""

    section: Section
    what: str
    why: str


@dataclass(frozen=True)
class Problem:
    """Something that was found and needs a remedy."""

    section: Section
    what: str
    remedy: str


@dataclass(frozen=True)
class Maker:
    """Who made the report, with which command of which release.

    Attributes:
        login: who had logged in, which sudo does not change; empty where nobody has.
    """

    user: str
    login: str
    host: str
    release: str
    python: str


@dataclass(frozen=True)
class Machine:
    """The machine that the report was made on."""

    host: str
    system: str
    kernel: str
    architecture: str
    processor: str


@dataclass(frozen=True)
class Server:
    """The cluster, and the server that runs on it.

    Attributes:
        has_interposer: whether the running server was started with tde; ``None`` when none runs,
            or it could not be found out.
        state: as pg_controldata prints it; it and the next two may be unknown.
    """

    data_directory: Path
    version: str
    programs: Path
    running: bool
    pid: int | None
    has_interposer: bool | None
    state: str
    data_checksums: bool | None
    system_identifier: int | None
    scope: str


@dataclass(frozen=True)
class Tablespace:
    """A tablespace by the name that SQL has for it.

    Attributes:
        databases: those whose catalogs and default tablespace it is.
    """

    oid: int
    name: str
    location: str
    protection: str
    key_file: str
    databases: tuple[str, ...]


@dataclass(frozen=True)
class Library:
    """A cryptographic library in use.

    Attributes:
        used_by: what for.
        file: empty where the library is part of another file.
        provider: OpenSSL's provider of AES-XTS, or of what it is used for.
        fips: whether that is a FIPS provider; ``None`` when it is not known.
        note: what is to be known about the answer.
    """

    used_by: str
    version: str
    file: str
    provider: str
    fips: bool | None
    note: str = ""


@dataclass(frozen=True)
class WayToOpen:
    """A way to the master key.

    Attributes:
        details: what it costs an attacker, or who holds it.
        thief: what a thief of the keystore gets.
    """

    name: str
    details: str
    thief: str


@dataclass(frozen=True)
class Secret:
    """The master key or the passphrase.

    Attributes:
        since: when the one of now was made; ``None`` if nobody knows.
        changes: how often the key log tells that it was replaced.
        limit: of its age; empty without one.
    """

    name: str
    since: datetime | None
    changes: int
    limit: str


@dataclass(frozen=True)
class Keystore:
    """The keystore, which the report was made with."""

    path: Path
    uuid: UUID
    created: datetime
    master_key_id: UUID
    secrets: tuple[Secret, ...]
    rotation_unfinished: bool
    ways: tuple[WayToOpen, ...]


@dataclass(frozen=True)
class Key:
    """One key record, or what is known of a key that was destroyed.

    Attributes:
        file: its record in the directory ``keys``; ids of keys are in the names.
        owner: whose key it is.
        algorithm: empty for a plaintext entry, and where it is not known.
        state: in the words of NIST SP 800-57; empty for a plaintext entry.
        state_source: what the state is known from.
        used_for: tablespaces and WAL of this cluster that have it now.
        bytes: how large their files are, in WAL those in pg_wal; ``None`` where there are none.
        present: whether its record is there.
        created, activated: ``None`` where nobody knows, or it has not happened.
        age_days: since it was activated, or created where that is not known.
        limit_days: of its age; ``None`` without one.
        age_problem: why its age needs a remedy, which is ``age_remedy``; empty when it does not.
        problem: why it does not open; empty when it does.
    """

    file: str
    owner: str
    algorithm: str
    state: str
    state_source: str
    used_for: str
    bytes: int | None
    present: bool
    created: datetime | None
    activated: datetime | None
    age_days: int | None
    limit_days: int | None
    age_problem: str = ""
    age_remedy: str = ""
    problem: str = ""
    remedy: str = ""


@dataclass(frozen=True)
class LogLine:
    """An entry of the key log, for people."""

    number: int
    time: datetime
    event: str
    who: str
    host: str
    command: str
    details: str


@dataclass(frozen=True)
class KeyLog:
    """What the key log says, and what is wrong with it.

    Attributes:
        proven: how many of the first entries a code of the master key speaks for.
        changes: all but openings: keys, rotations, passphrases, copies.
        failures: openings that failed.
        last: the last entries of any kind.
    """

    path: Path
    entries: int
    proven: int
    begins_with_the_keystore: bool
    problems: tuple[str, ...]
    openings: int
    changes: tuple[LogLine, ...]
    failures: tuple[LogLine, ...]
    last: tuple[LogLine, ...]


@dataclass(frozen=True)
class Report:
    """Everything that one report says.

    Attributes:
        archives, backups: what the audit was told to look at as well.
        secret_problems: what is wrong with the age of master key and passphrase, and what to do.
    """

    id: UUID
    made: datetime
    maker: Maker
    machine: Machine
    server: Server
    archives: tuple[Path, ...]
    backups: tuple[Path, ...]
    libraries: tuple[Library, ...]
    audit: AuditReport | None
    tablespaces: tuple[Tablespace, ...]
    keystore: Keystore | None
    keys: tuple[Key, ...]
    secret_problems: tuple[tuple[str, str], ...]
    key_log: KeyLog | None
    doctor: DoctorReport | None
    not_examined: tuple[NotExamined, ...]

    @property
    def problems(self) -> tuple[Problem, ...]:
        """Everything that needs a remedy, in the order of the chapters."""
        return tuple(self._problems())

    @property
    def verdict(self) -> Verdict:
        """The report in one word."""
        if self.problems:
            return Verdict.FINDINGS
        return Verdict.INCOMPLETE if self.not_examined else Verdict.CLEAN

    def _problems(self) -> Iterator[Problem]:
        if self.audit is not None:
            for finding in self.audit.findings:
                what = f"{finding.kind.value}: {finding.problem}"
                yield Problem(Section.PROOF, what, finding.remedy)
            for copy in self.audit.plain_copies.copies:
                what = f"plaintext copy, {copy.kind.value}: {copy.problem}"
                yield Problem(Section.PLAINTEXT, what, copy.remedy)
        for key in self.keys:
            if key.problem:
                yield Problem(Section.KEYS, key.problem, key.remedy)
            if key.age_problem:
                yield Problem(Section.KEYS, key.age_problem, key.age_remedy)
        for age_problem, remedy in self.secret_problems:
            yield Problem(Section.KEYS, age_problem, remedy)
        if self.key_log is not None:
            for problem in self.key_log.problems:
                yield Problem(Section.KEY_LOG, problem, _LOG_REMEDY)
        if self.doctor is not None:
            for found in self.doctor.of(DoctorVerdict.PROBLEM):
                yield Problem(Section.MACHINE, f"{found.title}: {found.detail}", found.remedy)

    def as_json(self) -> dict[str, Any]:
        """Return the report as values that the json module can write."""
        document = {
            "schema": SCHEMA,
            "verdict": self.verdict,
            "problems": [asdict(problem) for problem in self.problems],
        }
        for name, value in vars(self).items():
            if isinstance(value, (AuditReport, DoctorReport)):
                document[name] = value.as_json()
            else:
                document[name] = _as_values(value)
        return {name: _as_values(value) for name, value in document.items()}


_LOG_REMEDY = (
    "Compare it with what syslog has kept, and with the log in backups of the keystore. The keys "
    "are not concerned."
)


def _as_values(value: Any) -> Any:
    """Return a value of the model in the form that JSON has for it."""
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, (Path, UUID)):
        return value.hex if isinstance(value, UUID) else str(value)
    if isinstance(value, datetime):
        return value.isoformat()
    if hasattr(value, "__dataclass_fields__"):
        return {name: _as_values(field) for name, field in vars(value).items()}
    if isinstance(value, Mapping):
        return {str(name): _as_values(field) for name, field in value.items()}
    if isinstance(value, (list, tuple)):
        return [_as_values(item) for item in value]
    return value
