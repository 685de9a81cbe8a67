"""What the results of all commands have in common, and writing them."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import pandas as pd


class Document(Protocol):
    """Anything that ``--json`` can write."""

    def to_json(self) -> dict[str, Any]:
        """Return the document."""


@dataclass
class Outcome:
    """What is known about a run besides its measurements; it grows while the run goes on.

    Attributes:
        labels: configuration name to what people read, the baseline first.
        status: "running", "complete", "interrupted" or "failed".
        facts: per configuration: canary, size of the database, server version, settings.
    """

    parameters: dict[str, Any]
    labels: dict[str, str]
    metadata: dict[str, Any] = field(default_factory=dict)
    facts: dict[str, dict[str, Any]] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    status: str = "running"

    @property
    def baseline(self) -> str:
        """Name of the configuration that the others are compared with."""
        return next(iter(self.labels))

    def warn(self, text: str) -> None:
        """Keep a warning for the report, once."""
        if text not in self.warnings:
            self.warnings.append(text)

    def described(self, schema: dict[str, Any]) -> dict[str, Any]:
        """Return the part of the document that every command writes."""
        return {
            "schema": dict(schema),
            "status": self.status,
            "metadata": self.metadata,
            "parameters": self.parameters,
            "baseline": self.baseline,
            "configurations": [
                {"name": name, "label": label, **self.facts.get(name, {})}
                for name, label in self.labels.items()
            ],
            "warnings": self.warnings,
        }


def median_or_none(values: Iterable[Any]) -> float | None:
    """Return the median of values that may be None, which is the answer when all are."""
    known = pd.Series(list(values), dtype=object).dropna()
    return float(known.astype(float).median()) if len(known) else None


def write_json(document: Document, path: Path) -> None:
    """Write the JSON document, replacing an older one only when it is complete.

    It is written again after every turn, so a run that is killed leaves what it had measured.
    """
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(document.to_json(), file, indent=2)
            file.write("\n")
        # A temporary file is private; a result is as readable as any other new file.
        Path(temporary).chmod(0o666 & ~_umask())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _umask() -> int:
    """Return the process's umask, which can only be read by setting it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
