"""Reports that pytest writes with --junitxml."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path


class Result(Enum):
    """What came of a test; an error before or after it counts as a failure."""

    PASSED = "passed"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass(frozen=True)
class Case:
    """A test that was run.

    Attributes:
        node_id: of pytest, with the parameters.
        result: what came of it.
        reason: why it was skipped; empty otherwise.
        properties: what it has recorded.
    """

    node_id: str
    result: Result
    reason: str
    properties: Mapping[str, str]


def read_report(report: Path) -> Iterator[Case]:
    """Yield the tests of a report."""
    for case in ElementTree.parse(report).iter("testcase"):
        module = case.attrib["classname"].replace(".", "/")
        skipped = case.find("skipped")
        result = Result.PASSED if skipped is None else Result.SKIPPED
        if case.find("failure") is not None or case.find("error") is not None:
            result = Result.FAILED
        yield Case(
            f"{module}.py::{case.attrib['name']}",
            result,
            "" if skipped is None else skipped.attrib.get("message", ""),
            {fact.attrib["name"]: fact.attrib["value"] for fact in case.iter("property")},
        )
