"""The report of the doctor: one finding per thing that was looked at, each with a verdict."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from tde.machine.verdict import Verdict


class Group(str, Enum):
    """What a finding is about, in the order of the report."""

    MACHINE = "Machine"
    PROGRAM = "PostgreSQL programs"
    CLUSTER = "Cluster"
    LEFTOVERS = "What stays plain"


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Attributes:
        check: stable name of the check, for programs and for docs/doctor.md.
        title: the same for people.
        detail: what was found.
        remedy: what to do; empty for the verdict ``OK`` only.
    """

    check: str
    group: Group
    title: str
    verdict: Verdict
    detail: str
    remedy: str = ""


@dataclass(frozen=True)
class DoctorReport:
    """Everything that the doctor found.

    Attributes:
        data_directory: of the cluster, or ``None`` when only the machine was looked at.
        server_version: version of the installation, ``None`` when none was found.
        pid: of the running postmaster, or ``None``.
        settings_source: where the settings were read; empty when they were not.
        findings: in the order of :class:`Group`.
    """

    data_directory: Path | None
    server_version: str | None
    pid: int | None
    settings_source: str
    findings: tuple[Finding, ...]

    def of(self, *verdicts: Verdict) -> tuple[Finding, ...]:
        """Return the findings with one of these verdicts."""
        return tuple(finding for finding in self.findings if finding.verdict in verdicts)

    @property
    def problems(self) -> tuple[Finding, ...]:
        """The findings that need a remedy."""
        return self.of(Verdict.PROBLEM)

    @property
    def healthy(self) -> bool:
        """Whether there is no problem, and nothing that could not be looked at."""
        return not self.of(Verdict.PROBLEM, Verdict.UNKNOWN)

    def named(self, check: str) -> tuple[Finding, ...]:
        """Return the findings of one check."""
        return tuple(finding for finding in self.findings if finding.check == check)

    def as_json(self) -> dict[str, Any]:
        """Return the report as values that the json module can write."""
        directory = None if self.data_directory is None else str(self.data_directory)
        return {
            "data_directory": directory,
            "server_version": self.server_version,
            "pid": self.pid,
            "settings_source": self.settings_source,
            "healthy": self.healthy,
            "findings": [_plain(finding) for finding in self.findings],
        }


def _plain(finding: Finding) -> dict[str, str]:
    fields = asdict(finding)
    return {name: getattr(value, "value", value) for name, value in fields.items()}
