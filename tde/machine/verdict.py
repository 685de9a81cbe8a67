"""Outcomes of checks: what was found, how it is to be read, and what to do about it."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum

from tde.errors import TdeError
from tde.printable import printable_lines


class Verdict(str, Enum):
    """How a finding is to be read."""

    OK = "ok"
    WARNING = "warning"
    """Nothing encrypted is exposed now, but something weaker than it could be."""
    PROBLEM = "problem"
    """Data or keys can reach a disk in plain text, or the server cannot be started safely."""
    UNKNOWN = "unknown"
    """It could not be looked at; the detail says why. It is never guessed."""


@dataclass(frozen=True)
class Outcome:
    """The result of one check, before it is known under which name it is reported."""

    verdict: Verdict
    detail: str
    remedy: str = ""

    def __post_init__(self) -> None:
        """Let no name of a file steer the terminal that shows this."""
        object.__setattr__(self, "detail", printable_lines(self.detail))
        object.__setattr__(self, "remedy", printable_lines(self.remedy))


def ok(detail: str) -> Outcome:
    """Return the outcome of a check that found nothing to do."""
    return Outcome(Verdict.OK, detail)


def warning(detail: str, remedy: str) -> Outcome:
    """Return the outcome of a check that found something weaker than it could be."""
    return Outcome(Verdict.WARNING, detail, remedy)


def problem(detail: str, remedy: str) -> Outcome:
    """Return the outcome of a check that found data or keys at risk."""
    return Outcome(Verdict.PROBLEM, detail, remedy)


def unknown(why: str, remedy: str) -> Outcome:
    """Return the outcome of a check that could not look."""
    return Outcome(Verdict.UNKNOWN, why, remedy)


def outcomes_of(check: Callable[[], Iterator[Outcome]], remedy: str) -> Iterator[Outcome]:
    """Run one check; whatever keeps it from looking is an outcome as well, with this remedy."""
    try:
        yield from check()
    except TdeError as error:
        yield unknown(str(error), error.remedy or remedy)
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        yield unknown(str(error), remedy)
    except Exception as error:  # One check that fails must not hide what the others find.
        yield unknown(f"the check failed: {type(error).__name__}: {error}", remedy)
