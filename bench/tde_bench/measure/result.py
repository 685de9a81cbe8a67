"""Results, as far as those of all commands are alike."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass
class BenchmarkResult:
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


def shared_fields(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of :class:`BenchmarkResult` that a JSON document of any command holds."""
    described = ("name", "label")
    return {
        "parameters": dict(document["parameters"]),
        "labels": {c["name"]: c["label"] for c in document["configurations"]},
        "metadata": dict(document["metadata"]),
        "facts": {
            c["name"]: {key: value for key, value in c.items() if key not in described}
            for c in document["configurations"]
            if len(c) > len(described)
        },
        "warnings": list(document["warnings"]),
        "status": document["status"],
    }
