"""Results of ``compare``: those of ``oltp``, and the peers that could not run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tde_bench.oltp.results import SCHEMA as OLTP_SCHEMA, OltpResult, read_oltp

# Version 2 came with version 3 of what it shares with ``oltp``.
SCHEMA = {"name": "tde-bench/compare", "version": 2}


@dataclass
class CompareResult(OltpResult):
    """Everything about one run of ``tde-bench compare``.

    Attributes:
        unavailable: name of each peer that could not run to its label and the reason.
        notes: what a reader must know about a peer, by its name.
    """

    unavailable: dict[str, tuple[str, str]] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)

    def absent(self) -> list[tuple[str, str]]:
        """Return label and reason of every peer that could not run."""
        return list(self.unavailable.values())

    def to_json(self) -> dict[str, Any]:
        """Return the document that ``--json`` writes."""
        return {
            **super().to_json(),
            "schema": SCHEMA,
            "unavailable": [
                {"name": name, "label": label, "reason": reason}
                for name, (label, reason) in self.unavailable.items()
            ],
            "notes": self.notes,
        }


def read_compare(document: Mapping[str, Any]) -> CompareResult:
    """Return the result that a JSON document of ``compare`` holds.

    Raises:
        BenchError: when the part that it shares with ``oltp`` cannot be read.
    """
    shared = read_oltp({**document, "schema": OLTP_SCHEMA})
    return CompareResult(
        **vars(shared),
        unavailable={
            peer["name"]: (peer["label"], peer["reason"]) for peer in document["unavailable"]
        },
        notes=dict(document["notes"]),
    )
