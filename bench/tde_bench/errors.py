"""The errors that a benchmark raises on purpose; the command line prints them with their remedy."""

from __future__ import annotations

from tde.errors import TdeError


class BenchError(TdeError):
    """A benchmark cannot start, or what it measured cannot be trusted."""


class CanaryError(BenchError):
    """A cluster that should be encrypted is not, or the search that decides this is broken."""


class ConsistencyError(BenchError):
    """The data in a server contradicts the transactions that were run on it."""


class NotMeasuredError(BenchError):
    """Nothing can be said about the cost, because it could not be measured.

    A status of its own lets CI tell a full disk from encryption that has become more expensive.
    """

    exit_code = 3
