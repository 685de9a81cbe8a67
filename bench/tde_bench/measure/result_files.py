"""Writing results into files."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import pandas as pd


class Document(Protocol):
    """Anything that ``--json`` can write."""

    def to_json(self) -> dict[str, Any]:
        """Return the document."""


class RawRuns(Protocol):
    """Anything that ``--csv`` can write."""

    @property
    def runs(self) -> Sequence[Any]:
        """Return the raw runs."""

    def frame(self) -> pd.DataFrame:
        """Return the raw runs, one row each."""


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


def write_csv(result: RawRuns, path: Path) -> None:
    """Write the raw runs, one line each, for a spreadsheet."""
    result.frame().to_csv(path, index=False)
