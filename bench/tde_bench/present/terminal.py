"""The look of tables in the terminal, with their caption and the warnings below them."""

from __future__ import annotations

from collections.abc import Iterable

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tde_bench.measure.result import BenchmarkResult
from tde_bench.measure.statistics import Estimate
from tde_bench.present.formats import human_bytes, spread_words


def caption(result: BenchmarkResult, estimates: Iterable[Estimate | None]) -> str:
    """Return the lines that say where and on what the figures were measured.

    Args:
        estimates: those of the table above it.
    """
    machine = result.metadata.get("cpu", {})
    filesystem = result.metadata.get("filesystem") or {}
    facts = result.facts.get(result.baseline, {})
    parts = [f"{machine.get('model', 'unknown CPU')}, {machine.get('count', '?')} CPUs"]
    if filesystem:
        parts.append(f"{filesystem['type']} on {filesystem['device']}")
    if facts:
        data, buffers = facts["database_bytes"], facts["shared_buffers_bytes"]
        parts.insert(1, f"PostgreSQL {facts['server_version']}")
        parts.append(f"data {human_bytes(data)}, {data / buffers:.1f} × shared_buffers")
    return (
        "; ".join(parts) + ".\nFigures are medians of the rounds; ratios are medians of the "
        f"ratios within each round, with their {spread_words(estimates)}. CPU is that of all "
        "processes of the server. Added ÷ cipher: CPU more than without encryption, divided by "
        "what `openssl speed` needs for the same bytes."
    )


def compact_table(title: str) -> Table:
    """Return an empty table without a frame, of which many columns fit 80 characters."""
    return Table(
        title=title,
        title_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        collapse_padding=True,
    )


def print_warnings(result: BenchmarkResult, console: Console) -> None:
    """Print what disturbed the run, or what a reader must know besides."""
    for warning in result.warnings:
        console.print(Text("Warning: ", "bold yellow") + Text(warning))
