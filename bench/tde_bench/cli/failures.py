"""Errors that a run can end with, said in the words of whoever runs it."""

from __future__ import annotations

from tde.errors import TdeError
from tde_bench.errors import BenchError


def in_plain_words(error: Exception) -> TdeError | None:
    """Return an error with a message for people, None for one that only a developer understands."""
    if isinstance(error, TdeError):
        return error
    if isinstance(error, OSError):
        return BenchError(f"{error.filename}: {error.strerror}" if error.filename else str(error))
    return None
