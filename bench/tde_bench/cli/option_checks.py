"""Checks of options before any work is done."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterable
from pathlib import Path

import typer

from tde.algorithms import Algorithm
from tde.console.options import algorithm_of
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
        if path is not None:
            _check_output(path)


def _check_output(path: Path) -> None:
    """Refuse a place where no file can be made.

    Raises:
        BenchError: naming the file.
    """
    folder = path.absolute().parent
    if not folder.is_dir():
        raise BenchError(f"the directory of {path} does not exist")
    # A device would be replaced by a file, as results are written beside and then renamed.
    if path.exists() and not path.is_file():
        raise BenchError(f"{path} exists and is not a file")
    if path.exists() and not os.access(path, os.W_OK):
        raise BenchError(f"{path} may not be written")
    try:
        # Only the attempt tells: permissions, full disks and kernel filesystems look alike before.
        with tempfile.NamedTemporaryFile(prefix=f".{path.name}.", dir=folder):
            pass
    except OSError as error:
        raise BenchError(f"{path} cannot be written: {error.strerror}") from error


def algorithms_of(aes: Iterable[int] | None) -> list[Algorithm]:
    """Return the algorithms of the key sizes that were asked for, each of them once."""
    return [algorithm_of(bits) for bits in dict.fromkeys(aes or ())]


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


def settings_of(given: Iterable[str] | None) -> dict[str, str]:
    """Return the settings that ``--set`` names.

    Raises:
        BadParameter: one of them has no name.
    """
    settings = {}
    for text in given or []:
        name, equals, value = text.partition("=")
        if not equals or not name.strip():
            raise typer.BadParameter(f"{text!r} is no NAME=VALUE", param_hint="--set")
        settings[name.strip()] = value.strip()
    return settings
