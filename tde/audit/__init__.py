"""Proof that a cluster, its WAL archive and its backups are encrypted (``tde pg audit``)."""

from tde.audit.report import (
    STATISTICAL_ERROR,
    AuditLine,
    AuditReport,
    FileClass,
    Finding,
    FindingKind,
    PlainFiles,
)
from tde.audit.runner import AuditObserver, audit

__all__ = [
    "STATISTICAL_ERROR",
    "AuditLine",
    "AuditObserver",
    "AuditReport",
    "FileClass",
    "Finding",
    "FindingKind",
    "PlainFiles",
    "audit",
]
