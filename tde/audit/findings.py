"""From the problems of blocks to findings with words and a remedy."""

from __future__ import annotations

from pathlib import Path

from tde import _core
from tde.audit.inventory import AuditedFile
from tde.audit.report import FileClass, Finding, FindingKind
from tde.audit.tally import Issue

_PROBLEMS = {
    FindingKind.PLAIN_PAGE: "stored in plaintext",
    FindingKind.PLAINTEXT: "not ciphertext: the stored bytes are not random",
    FindingKind.FOREIGN: "ciphertext of another file or key, or damaged: decrypts to nothing "
    "that belongs here",
    FindingKind.BAD_CHECKSUM: "ciphertext of this place, but the page's checksum is wrong",
}
_REMEDIES = {
    FindingKind.PLAIN_PAGE: "Somebody wrote past tde. Rewrite the relation (VACUUM FULL or "
    "REINDEX) or restore the file, and treat the old storage as disclosed.",
    FindingKind.PLAINTEXT: "Somebody wrote past tde. Restore the file from a backup, and treat the "
    "old storage as disclosed.",
    FindingKind.FOREIGN: "Nothing is disclosed, but the data is not readable: restore the file "
    "from a backup.",
    FindingKind.BAD_CHECKSUM: "Nothing is disclosed, but the page is damaged: restore the file "
    "from a backup.",
}
_WAL_REMEDY = (
    "Somebody stored WAL past tde, for example a stock pg_receivewal. Delete the segment if a "
    "newer base backup exists, use tde pg exec, and treat the old storage as disclosed."
)
_TEMPORARY_REMEDY = (
    "Restart the server, which removes temporary files, and treat the old storage as disclosed."
)
PLAINTEXT_KINDS = (FindingKind.PLAIN_PAGE, FindingKind.PLAINTEXT)


def issue_finding(file: AuditedFile, issue: Issue) -> Finding:
    """Return the finding for a run of blocks."""
    last = issue.block + issue.blocks - 1
    where = f"block {last}" if issue.blocks == 1 else f"blocks {issue.block} to {last}"
    problem = issue.note or f"is {_PROBLEMS[issue.kind]}"
    if issue.blocks > 1 and not issue.note:
        problem = f"are {_PROBLEMS[issue.kind]}"
    elif issue.blocks > 1:
        problem = f"do not belong here; the first {problem}"
    remedy = _REMEDIES[issue.kind]
    if issue.kind in PLAINTEXT_KINDS and file.file_class is FileClass.WAL:
        remedy = _WAL_REMEDY
    elif issue.kind in PLAINTEXT_KINDS and file.file_class is FileClass.EPHEMERAL:
        remedy = _TEMPORARY_REMEDY
    return Finding(
        issue.kind,
        file.path,
        f"{file.label}: {where} {problem}",
        remedy,
        member=file.member,
        block=issue.block,
        blocks=issue.blocks,
    )


def canary_finding(file: AuditedFile, offsets: tuple[int, ...], by_decision: bool) -> Finding:
    """Return the finding for the occurrences of the canary in one file, which are sorted."""
    remedy = (
        "The file is of an encrypted class: somebody wrote past tde. Restore it from a backup, "
        "and treat the old storage as disclosed."
    )
    if file.file_class is FileClass.EPHEMERAL:
        remedy = _TEMPORARY_REMEDY
    elif by_decision:
        remedy = "The tablespace is in plaintext by decision; move the table to one with a key."
    elif file.rule is not None:
        remedy = f"The file is plain by design ({file.rule.reason})."
    elif file.file_class is FileClass.UNKNOWN:
        remedy = "Nobody encrypts this file; remove it."
    more = f" and at {len(offsets) - 1:,} more places" if len(offsets) > 1 else ""
    return Finding(
        FindingKind.CANARY,
        file.path,
        f"{file.label}: the canary is at byte {offsets[0]}{more}",
        remedy,
        member=file.member,
        block=offsets[0] // _core.BLOCK_SIZE,
        blocks=1,
        offsets=offsets,
    )


def damaged_finding(file: AuditedFile, damage: str) -> Finding:
    """Return the finding for stored bytes that are not what was stored."""
    return Finding(
        FindingKind.DAMAGED,
        file.path,
        f"{file.label}: {damage}",
        "What is not there was not judged. If the file is still being written, repeat the audit; "
        "else it cannot be restored: take another backup.",
        member=file.member,
    )


def not_judged_finding(path: Path, problem: str, remedy: str, member: str = "") -> Finding:
    """Return the finding for what nobody can read here; ``problem`` continues its name."""
    label = f"{path} ({member})" if member else str(path)
    return Finding(FindingKind.NOT_JUDGED, path, f"{label} {problem}", remedy, member=member)


def no_key_finding(oid: int, directory: Path) -> Finding:
    """Return the finding for a tablespace whose key is not known."""
    return Finding(
        FindingKind.NO_KEY,
        directory,
        f"tablespace {oid} ({directory}) has no key that is in the keystore, so its files were not "
        "judged",
        "If it was made while the audit ran, repeat it. If its key file was lost, restore it from "
        "a backup of the keystore.",
    )


def policy_finding(oid: int, directory: Path) -> Finding:
    """Return the finding for a plaintext tablespace in a cluster of scope ``cluster``."""
    return Finding(
        FindingKind.POLICY,
        directory,
        f"tablespace {oid} ({directory}) is in plaintext, but the scope of the cluster is cluster",
        "Move its relations to a tablespace with a key (ALTER TABLE ... SET TABLESPACE), drop it, "
        "and treat the old storage as disclosed.",
    )
