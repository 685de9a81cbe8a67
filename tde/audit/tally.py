"""The counts that one stretch of a file adds to the report."""

from __future__ import annotations

from dataclasses import dataclass, field

from tde.audit.report import FindingKind


@dataclass
class Issue:
    """A run of blocks with the same problem; ``note`` says more about the first of them."""

    kind: FindingKind
    block: int
    blocks: int = 1
    note: str = ""


@dataclass
class Tally:
    """Counts and problems of a stretch; the names of counts are those of AuditLine.

    Attributes:
        exists: whether the file was still there to be read.
        canaries: offsets in the file.
        zero_runs: (first block, number) of the blocks of zeros, counted in the file.
        last_written: the last block that is not zeros; -1 when there is none.
        damage: why the file is not what was stored, in words; empty when it is.
    """

    exists: bool = True
    bytes: int = 0
    verified: int = 0
    zero: int = 0
    recycled: int = 0
    unproven: int = 0
    random: int = 0
    torn: int = 0
    too_short: int = 0
    issues: list[Issue] = field(default_factory=list)
    canaries: list[int] = field(default_factory=list)
    zero_runs: list[tuple[int, int]] = field(default_factory=list)
    last_written: int = -1
    damage: str = ""

    def add_issue(self, kind: FindingKind, block: int, note: str = "") -> None:
        """Add a block to the last run, or begin a new one."""
        last = self.issues[-1] if self.issues else None
        if last and last.kind is kind and last.block + last.blocks == block:
            last.blocks += 1
        else:
            self.issues.append(Issue(kind, block, note=note))

    def continues(self, kind: FindingKind, block: int) -> bool:
        """Tell whether a block would extend the last run, whose note then holds for it too."""
        last = self.issues[-1] if self.issues else None
        return last is not None and last.kind is kind and last.block + last.blocks == block
