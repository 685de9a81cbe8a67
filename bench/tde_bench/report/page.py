"""Putting the page together."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from tde_bench.batch.results import TOTAL, BatchResult
from tde_bench.configurations import NO_ENCRYPTION
from tde_bench.measure.statistics import MINIMUM_VALUES
from tde_bench.oltp.results import OltpResult
from tde_bench.report.published import WHAT_IT_IS, reference_pairs
from tde_bench.report.reading import Result, read_result
from tde_bench.report.sections import section_of

HEADING = "Encryption benchmarks"


def read_all(files: Sequence[Path]) -> list[tuple[str, Result]]:
    """Return the results with the names of their files, in the given order.

    Raises:
        BenchError: naming the first file that is no result.
    """
    return [(path.name, read_result(path)) for path in files]


def render_html(results: Sequence[tuple[str, Result]]) -> str:
    """Return a page that needs no other file."""
    return _render("page.html.jinja", results)


def render_markdown(results: Sequence[tuple[str, Result]]) -> str:
    """Return tables and sentences without charts and raw runs."""
    return _render("page.md.jinja", results)


def _render(template: str, results: Sequence[tuple[str, Result]]) -> str:
    environment = Environment(
        loader=PackageLoader("tde_bench.report", "."),
        # Results may come from anywhere, and labels of servers are the user's own text.
        autoescape=template.endswith(".html.jinja"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["cell"] = _markdown_cell
    context = {
        "heading": HEADING,
        "minimum": MINIMUM_VALUES,
        "reference": _reference(results),
        "what_the_reference_is": WHAT_IT_IS,
        "sections": [section_of(result, name) for name, result in results],
    }
    return environment.get_template(template).render(context)


def _reference(results: Sequence[tuple[str, Result]]) -> list[Any]:
    """Return the reference charts if any result has a counterpart of them."""
    oltp = [
        result
        for _, result in results
        if type(result) is OltpResult
        and result.runs
        and result.baseline == NO_ENCRYPTION.name
        and not result.is_sweep
        and result.parameters.get("workload") == "tpcb"
        # At a fixed rate, throughput is the same by construction.
        and not result.parameters.get("rate")
    ]
    batch = [
        result
        for _, result in results
        if isinstance(result, BatchResult) and any(s.phase == TOTAL for s in result.summaries())
    ]
    if not oltp and not batch:
        return []
    return list(
        reference_pairs(
            max(oltp, key=_completeness, default=None), max(batch, key=_completeness, default=None)
        )
    )


def _completeness(result: OltpResult | BatchResult) -> tuple[bool, int, int]:
    """Order results by how much of a published chart they show, and how well."""
    return result.status == "complete", len(result.labels), len(result.runs)


def _markdown_cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
