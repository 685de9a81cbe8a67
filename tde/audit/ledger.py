"""Adding up what the threads found, by place, class and tablespace."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tde.audit.findings import (
    canary_finding,
    damaged_finding,
    issue_finding,
    no_key_finding,
    policy_finding,
)
from tde.audit.inventory import TOOL_FILES, AuditedFile, Layout, Place, PlaceKind, unknown_file
from tde.audit.keys import AuditKeys
from tde.audit.report import AuditLine, FileClass, Finding, FindingKind, PlainFiles
from tde.audit.tally import Issue, Tally
from tde.audit.zeros import ZeroPages
from tde.postgres.cluster.plain_files import PLAIN_BY_DESIGN
from tde.postgres.cluster.scope import Scope
from tde.postgres.facts import BUILT_IN_TABLESPACES

_COUNTS = ("bytes", "verified", "zero", "recycled", "unproven", "random", "torn", "too_short")
_ORDER = (FileClass.RELATION, FileClass.WAL, FileClass.EPHEMERAL, FileClass.UNKNOWN)
_NAMES = {
    FileClass.WAL: "WAL",
    FileClass.EPHEMERAL: "temporary files",
    FileClass.UNKNOWN: "unknown files",
}

_LineKey = tuple[Place, FileClass, int | None]


@dataclass
class _FileState:
    """What the stretches of one file have said so far."""

    issues: list[Issue] = field(default_factory=list)
    canaries: list[int] = field(default_factory=list)


class Ledger:
    """All results of an audit."""

    def __init__(self, keys: AuditKeys, scope: Scope) -> None:
        self._keys = keys
        self._scope = scope
        self._places: list[Place] = []
        self._counts: dict[_LineKey, Counter[str]] = {}
        self._files: dict[AuditedFile, _FileState] = {}
        self._plain: dict[str, Counter[str]] = {}
        self._findings: dict[tuple[Path, str], Finding] = {}
        self._zeros = ZeroPages(keys)
        self._warnings: list[Finding] = []
        self._locations: dict[_LineKey, str] = {}

    def add_places(self, places: Sequence[Place]) -> None:
        """Make a line for every tablespace, also for those without files."""
        self._places = list(places)
        for place in places:
            if place.kind is PlaceKind.ARCHIVE:
                continue
            for oid in (*BUILT_IN_TABLESPACES, *place.tablespace_oids()):
                self._add_tablespace(place, oid)

    def _add_tablespace(self, place: Place, oid: int) -> None:
        key = (place, FileClass.RELATION, oid)
        if key in self._counts:
            return
        self._counts[key] = Counter()
        directory = place.tablespace_directory(oid)
        if oid not in BUILT_IN_TABLESPACES and place.layout is Layout.FILES:
            self._locations[key] = str(directory)
        protection = self._keys.tablespace(oid, place.home)
        if protection.cipher is not None:
            return
        if not protection.plaintext:
            self.add_findings([no_key_finding(oid, directory)])
        elif self._scope is Scope.CLUSTER:
            self.add_findings([policy_finding(oid, directory)])
        else:
            return
        self._counts[key]["findings"] += 1

    def add_findings(self, findings: Iterable[Finding]) -> None:
        """Add findings, each once."""
        for finding in findings:
            self._findings.setdefault((finding.file, finding.problem), finding)

    def add_warnings(self, warnings: Iterable[Finding]) -> None:
        """Add what is no finding, but should be looked at."""
        self._warnings += warnings

    def add_file(self, file: AuditedFile) -> None:
        """Count a file that a walk has found."""
        if file.file_class is FileClass.PLAIN and file.rule is not None:
            counts = self._plain.setdefault(file.rule.files, Counter())
            counts["files"] += 1
            counts["bytes"] += file.size
            return
        counts = self._line(file)
        counts["files"] += 1
        if file.file_class is FileClass.UNKNOWN and file.size > 0:
            self.add_findings([unknown_file(file)])
            counts["findings"] += 1
        if not file.size or not self._is_judged(file):
            counts["bytes"] += file.size

    def add_tally(self, file: AuditedFile, tally: Tally) -> None:
        """Add what one stretch of a file gave."""
        if not tally.exists:
            return
        if file.file_class is not FileClass.PLAIN and self._is_judged(file):
            counts = self._line(file)
            for name in _COUNTS:
                counts[name] += getattr(tally, name)
        self._zeros.add(file, tally)
        if tally.damage:
            self.add_findings([damaged_finding(file, tally.damage)])
            if file.file_class is not FileClass.PLAIN:
                self._line(file)["findings"] += 1
        if tally.issues or tally.canaries:
            state = self._files.setdefault(file, _FileState())
            state.issues += tally.issues
            state.canaries += tally.canaries

    def judge_zeros(self) -> None:
        """Judge pages of zeros, which takes all files of their relations."""
        for file, finding in self._zeros.findings():
            if finding.kind is FindingKind.ZERO_PAGES:
                self._warnings.append(finding)
            else:
                self.add_findings([finding])
                self._line(file)["findings"] += 1

    def _is_judged(self, file: AuditedFile) -> bool:
        if file.tablespace is not None:
            return self._keys.tablespace(file.tablespace, file.place.home).cipher is not None
        return file.file_class in (FileClass.WAL, FileClass.EPHEMERAL)

    def _line(self, file: AuditedFile) -> Counter[str]:
        return self._counts.setdefault((file.place, file.file_class, file.tablespace), Counter())

    def findings(self) -> tuple[Finding, ...]:
        """Return all findings, sorted by file and block."""
        found = list(self._findings.values())
        for file, state in self._files.items():
            found += [issue_finding(file, issue) for issue in _joined(state.issues)]
            if state.canaries:
                offsets = tuple(sorted(state.canaries))
                found.append(canary_finding(file, offsets, self._by_decision(file)))
        return tuple(sorted(found, key=lambda f: (str(f.file), f.block or 0)))

    def warnings(self) -> tuple[Finding, ...]:
        """Return what is no finding, but should be looked at, sorted by file and block."""
        return tuple(sorted(self._warnings, key=lambda f: (str(f.file), f.block or 0)))

    def _by_decision(self, file: AuditedFile) -> bool:
        return (
            file.tablespace is not None
            and self._scope is Scope.TABLESPACES
            and self._keys.tablespace(file.tablespace, file.place.home).plaintext
        )

    def lines(self) -> tuple[AuditLine, ...]:
        """Return one line per place, class and tablespace."""
        findings: Counter[_LineKey] = Counter()
        for file, state in self._files.items():
            key = (file.place, file.file_class, file.tablespace)
            findings[key] += len(_joined(state.issues)) + bool(state.canaries)
        keys = sorted(
            self._counts,
            key=lambda key: (self._places.index(key[0]), _ORDER.index(key[1]), key[2] or 0),
        )
        return tuple(self._audit_line(key, findings[key]) for key in keys)

    def _audit_line(self, key: _LineKey, findings: int) -> AuditLine:
        place, file_class, oid = key
        counts = self._counts[key]
        algorithm = None
        name = _NAMES.get(file_class, "")
        by_decision = False
        if file_class is FileClass.WAL:
            algorithm = self._keys.wal.algorithm
        elif oid is not None:
            protection = self._keys.tablespace(oid, place.home)
            algorithm = protection.algorithm
            by_decision = protection.plaintext and self._scope is Scope.TABLESPACES
            location = self._locations.get(key, "")
            name = f"{oid} in {location}" if location else str(oid)
            name = BUILT_IN_TABLESPACES.get(oid, name)
        return AuditLine(
            place=place.label,
            file_class=file_class,
            tablespace=oid,
            name=name,
            algorithm=algorithm,
            files=counts["files"],
            findings=counts["findings"] + findings,
            by_decision=by_decision,
            **{count: counts[count] for count in _COUNTS},
        )

    def plain(self) -> tuple[PlainFiles, ...]:
        """Return the files that are plain by design, in the order of the list."""
        return tuple(
            PlainFiles(
                rule.files,
                rule.reason,
                self._plain[rule.files]["files"],
                self._plain[rule.files]["bytes"],
                rule.decision,
            )
            for rule in (*PLAIN_BY_DESIGN, TOOL_FILES)
            if rule.files in self._plain
        )


def _joined(issues: Iterable[Issue]) -> list[Issue]:
    """Return the runs of a file's stretches, sorted, with neighbours of one kind joined."""
    joined: list[Issue] = []
    for issue in sorted(issues, key=lambda issue: issue.block):
        last = joined[-1] if joined else None
        if last and last.kind is issue.kind and last.block + last.blocks == issue.block:
            joined[-1] = Issue(last.kind, last.block, last.blocks + issue.blocks, last.note)
        else:
            joined.append(issue)
    return joined
