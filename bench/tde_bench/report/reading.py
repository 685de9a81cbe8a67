"""Reading result files of every command back into the classes that summarize them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from tde_bench.batch.results import BatchResult, BatchRun
from tde_bench.check.quantities import CheckRun
from tde_bench.check.results import CheckResult
from tde_bench.check.verdict import Comparison
from tde_bench.compare.results import CompareResult, read_compare
from tde_bench.errors import BenchError
from tde_bench.io.results import IoResult, IoRun
from tde_bench.measure.cipher_speed import CipherSpeed
from tde_bench.measure.result import shared_fields
from tde_bench.measure.statistics import Estimate
from tde_bench.oltp.results import OltpResult, read_oltp
from tde_bench.pages.results import PagesResult, read_pages

Result = OltpResult | BatchResult | PagesResult | IoResult | CheckResult | CompareResult


def read_result(path: Path) -> Result:
    """Return the result in a file.

    Raises:
        BenchError: naming the file, when it is not a result that this version knows.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        schema = document["schema"]
        name, version = schema["name"], schema["version"]
    except (OSError, ValueError) as error:
        raise BenchError(f"{path} cannot be read: {error}") from error
    except (KeyError, TypeError) as error:
        raise BenchError(f"{path} is not a result of tde-bench") from error
    reader = _READERS.get((name, version))
    if reader is None:
        known = ", ".join(f"{name} {version}" for name, version in _READERS)
        raise BenchError(f"{path} holds {name} {version}; this version reads {known}")
    try:
        result: Result = reader(document)
    except (KeyError, TypeError, ValueError) as error:
        raise BenchError(f"{path} is not a whole result: {error!r}") from error
    return result


def _read_batch(document: Mapping[str, Any]) -> BatchResult:
    return BatchResult(
        **shared_fields(document),
        phases={phase["name"]: phase["label"] for phase in document["phases"]},
        runs=[BatchRun(**_known(BatchRun, run)) for run in document["runs"]],
        speeds=[CipherSpeed(**speed) for speed in document["openssl_speed"]],
    )


def _read_io(document: Mapping[str, Any]) -> IoResult:
    runs = [IoRun(**_known(IoRun, run)) for run in document["runs"]]
    return IoResult(**shared_fields(document), runs=runs)


def _read_check(document: Mapping[str, Any]) -> CheckResult:
    units = {q["name"]: (q["label"], q["unit"]) for q in document["quantities"]}
    runs = [CheckRun(**_known(CheckRun, run)) for run in document["runs"]]
    comparison = None
    # Version 1 said nothing of a comparison.
    if (margin := document.get("margin")) is not None:
        known = {f["name"]: f["baseline"] for f in document["findings"] if f["baseline"]}
        comparison = Comparison({name: Estimate(**e) for name, e in known.items()}, margin)
    return CheckResult(**shared_fields(document), units=units, runs=runs, comparison=comparison)


def _known(kind: Any, values: Mapping[str, Any]) -> dict[str, Any]:
    """Drop fields that another version may have added."""
    names = {item.name for item in fields(kind)}
    return {name: value for name, value in values.items() if name in names}


_READERS: dict[tuple[str, int], Any] = {
    ("tde-bench/oltp", 1): read_oltp,
    ("tde-bench/oltp", 2): read_oltp,
    ("tde-bench/oltp", 3): read_oltp,
    ("tde-bench/batch", 1): _read_batch,
    ("tde-bench/pages", 1): read_pages,
    ("tde-bench/pages", 2): read_pages,
    ("tde-bench/io", 1): _read_io,
    ("tde-bench/check", 1): _read_check,
    ("tde-bench/check", 2): _read_check,
    ("tde-bench/compare", 1): read_compare,
    ("tde-bench/compare", 2): read_compare,
}
