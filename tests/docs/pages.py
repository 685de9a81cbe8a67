"""The pages of docs/, and what stands in their chapters."""

from __future__ import annotations

import re
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"


def commands(page: str, heading: str) -> list[str]:
    """Return the lines of the indented blocks in one chapter of a page."""
    return [line.strip() for line in indented(page, heading)]


def indented(page: str, heading: str) -> list[str]:
    """Return these lines as they stand there, for files in which spaces count."""
    text = (DOCS / page).read_text(encoding="utf-8")
    chapters = re.split(r"^#+ ", text, flags=re.MULTILINE)
    (found,) = [chapter for chapter in chapters if chapter.startswith(f"{heading}\n")]
    return [line for line in found.splitlines() if line.startswith("    ")]


def settings_of(page: str, heading: str) -> list[str]:
    """Return the lines of a tool's configuration in one chapter, without names of sections."""
    return [line for line in commands(page, heading) if not line.startswith("[")]


def write_between(page: Path, begin: str, end: str, text: str) -> None:
    """Put a text that a run has made between two marks of a page."""
    before, begun, rest = page.read_text(encoding="utf-8").partition(begin)
    _, ended, after = rest.partition(end)
    if not (begun and ended):
        raise SystemExit(f"{page} has no place for the table")
    page.write_text(f"{before}{begin}\n\n{text}\n\n{end}{after}", encoding="utf-8")
