"""What the commands share: checks of options before any work is done."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from tde_bench.errors import BenchError

_CHART_SUFFIXES = (".png", ".svg")
_MEMORY_SIZE = re.compile(r"\d+(kB|MB|GB)")


def check_memory_size(option: str, value: str | None) -> None:
    """Refuse what PostgreSQL would not take as a size of memory.

    Raises:
        BenchError: naming the option.
    """
    if value is not None and not _MEMORY_SIZE.fullmatch(value):
        raise BenchError(f"{option} {value} is not a size", remedy="Example: 64MB")


def check_outputs(files: Iterable[Path | None], charts: Iterable[Path | None]) -> None:
    """Refuse output files that could not be written after the run, when minutes would be lost.

    Args:
        files: all output files, None for those that were not asked for.
        charts: those of them that are pictures.

    Raises:
        BenchError: naming the file.
    """
    for chart in charts:
        if chart is not None and chart.suffix.lower() not in _CHART_SUFFIXES:
            raise BenchError(
                f"--chart {chart}: the name must end in {' or '.join(_CHART_SUFFIXES)}"
            )
    for path in files:
        if path is not None and not path.absolute().parent.is_dir():
            raise BenchError(f"the directory of {path} does not exist")


def numbers(option: str, text: str | None) -> tuple[int, ...] | None:
    """Return the whole numbers of a list such as ``1,4,16``, None when the option was not given.

    Raises:
        BenchError: naming the option, for anything but distinct numbers from 1 on.
    """
    if text is None:
        return None
    parts = [part.strip() for part in text.split(",")]
    found = tuple(int(part) for part in parts if part.isascii() and part.isdigit())
    if len(found) != len(parts) or min(found) < 1 or len(set(found)) != len(found):
        raise BenchError(f"{option} {text} is not a list of numbers", remedy="Example: 1,4,16")
    return found
