"""The report of an audit: typed, immutable, and complete enough to print or to store."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

from tde.algorithms import Algorithm
from tde.postgres.tablespace.plain_copies import PlainCopies

#: Probability that one 512-byte sector of ciphertext is taken for plaintext by the statistics.
STATISTICAL_ERROR = 2.0**-50


class FileClass(str, Enum):
    """How a file is stored, by its name."""

    RELATION = "relation"
    WAL = "WAL"
    EPHEMERAL = "temporary"
    """Encrypted with a key that exists only in the server: judged by statistics."""
    PLAIN = "plain by design"
    UNKNOWN = "unknown"


class FindingKind(str, Enum):
    """What can be wrong."""

    PLAIN_PAGE = "plaintext page"
    PLAINTEXT = "plaintext"
    CANARY = "canary"
    FOREIGN = "foreign ciphertext"
    BAD_CHECKSUM = "bad checksum"
    NO_KEY = "no key"
    POLICY = "outside the policy"
    UNKNOWN_FILE = "unknown file"
    UNREADABLE = "unreadable"
    DAMAGED = "damaged file"
    """A compressed file or archive that ends early, or is not what the tool's list says."""
    NOT_JUDGED = "not judged"
    """Nobody can read it here; a warning when it is another cluster's."""
    LOST_PAGES = "lost pages"
    ZERO_PAGES = "zero pages"
    """Only ever a warning: a healthy server leaves such pages too."""


@dataclass(frozen=True)
class Finding:
    """Something that must not be in an encrypted cluster, or that should be looked at.

    Attributes:
        file: the file, or a directory when all of it is meant.
        block: number of the first block concerned, counted in the file; ``None`` for the whole.
        blocks: how many blocks from there on.
        offsets: of a canary: bytes from the start of the file, at most 20 of each 64 MiB.
        problem: what is wrong, in words.
        remedy: what to do about it.
        member: the name in the archive or bundle ``file``; empty for other files. Blocks and
            offsets are then those of the member, unpacked.
    """

    kind: FindingKind
    file: Path
    problem: str
    remedy: str
    block: int | None = None
    blocks: int = 0
    offsets: tuple[int, ...] = ()
    member: str = ""


@dataclass(frozen=True)
class AuditLine:
    """The files of one class, and of one tablespace, in one place.

    Attributes:
        place: ``cluster``, or ``archive`` or ``backup`` with the directory.
        tablespace: OID, for relations only.
        name: what people read: the tablespace's name or OID and location, or the class.
        algorithm: that of the key; ``None`` when there is none or it is not known.
        files: how many were looked at.
        bytes: how many were read, or are there, for files that are plain by design.
        verified: blocks that decrypt to what belongs there.
        zero: blocks of zeros, which are stored as zeros.
        recycled: WAL blocks that decrypt under a former name of the segment.
        unproven: WAL blocks whose former name was not found; ciphertext by statistics.
        random: blocks judged by statistics only, because their key is private to the server.
        torn: blocks that were caught half-written and that WAL replay will restore.
        too_short: files with too few bytes to judge.
        findings: how many of the report's findings concern these files.
        by_decision: whether these are relations in plaintext as the policy wants it.
    """

    place: str
    file_class: FileClass
    tablespace: int | None
    name: str
    algorithm: Algorithm | None
    files: int = 0
    bytes: int = 0
    verified: int = 0
    zero: int = 0
    recycled: int = 0
    unproven: int = 0
    random: int = 0
    torn: int = 0
    too_short: int = 0
    findings: int = 0
    by_decision: bool = False


@dataclass(frozen=True)
class PlainFiles:
    """Files that are plain by design, with the reason.

    Attributes:
        decision: whether they can hold pieces of rows, which the operator has to decide about.
    """

    files: str
    reason: str
    count: int
    bytes: int
    decision: bool


@dataclass(frozen=True)
class AuditReport:
    """The result of :func:`tde.postgres.audit`.

    Attributes:
        running: whether the server was running.
        scope: ``cluster`` or ``tablespaces``, what the cluster was created to encrypt.
        checksums: whether pages carry checksums, which makes a verified page proof of all of it.
        statistical_error: probability per 512-byte sector of a false alarm by statistics.
        warnings: what should be looked at, but may be in a healthy cluster too.
        canary: whether a text was searched for.
        seconds: how long it took.
        plain_copies: what holds rows of encrypted tables outside the encrypted tablespaces.
    """

    data_directory: Path
    running: bool
    scope: str
    checksums: bool
    lines: tuple[AuditLine, ...]
    findings: tuple[Finding, ...]
    warnings: tuple[Finding, ...]
    plain: tuple[PlainFiles, ...]
    canary: bool
    seconds: float
    statistical_error: float = STATISTICAL_ERROR
    plain_copies: PlainCopies = field(default_factory=lambda: PlainCopies(possible=False))

    @property
    def clean(self) -> bool:
        """Whether nothing was found; plain copies may not have been looked for."""
        return not self.findings and not self.plain_copies.copies

    @property
    def bytes_read(self) -> int:
        """Bytes of encrypted classes that were read."""
        return sum(line.bytes for line in self.lines)

    def as_json(self) -> dict[str, Any]:
        """Return the fields as values that the json module can write."""
        document = asdict(self)
        document["data_directory"] = str(self.data_directory)
        for line in document["lines"]:
            line["algorithm"] = line["algorithm"].label if line["algorithm"] else None
        for finding in (*document["findings"], *document["warnings"]):
            finding["file"] = str(finding["file"])
        document["plain_copies"] = self.plain_copies.as_json()
        return {"clean": self.clean, **document}
