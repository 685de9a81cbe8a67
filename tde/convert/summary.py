"""The summary of a conversion that has finished."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class ConversionSummary:
    """The result of converting a cluster in place.

    Attributes:
        direction: ``encrypt``, ``decrypt`` or ``rekey``.
        keystore: directory of the keystore that has the keys.
        resumed: whether this run finished the work of an earlier one.
        files: relation files and WAL segments that are converted now, by all runs together.
        bytes: their size.
        bytes_written: what this run has overwritten; less than ``bytes`` because pages of zeros
            stay as they are, and because of earlier runs.
        plaintext_files: relation files that stay plain in scope ``tablespaces``.
        removed_files: temporary files that this run has removed, as the server would at its start.
        data_checksums: whether pages have checksums now.
        checksums_turned_on: whether this conversion has given them to the pages.
        invalid_pages: blocks that are no valid pages in their plain form. They were converted
            like all others, so nothing is lost by it.
        invalid_examples: where the first of them are.
        seconds: elapsed time of this run.
        tablespaces: OIDs of those that have another key now, after a rekey.
        warnings: what the operator should know.
    """

    direction: str
    data_directory: Path
    keystore: Path
    scope: str
    algorithm: str
    resumed: bool
    files: int
    bytes: int
    bytes_written: int
    plaintext_files: int
    removed_files: int
    data_checksums: bool
    checksums_turned_on: bool
    invalid_pages: int
    seconds: float
    invalid_examples: list[str] = field(default_factory=list)
    tablespaces: list[int] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """Return the fields as values that the json module can write."""
        document = asdict(self)
        document["data_directory"] = str(self.data_directory)
        document["keystore"] = str(self.keystore)
        return document
