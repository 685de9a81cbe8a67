"""The files that are plain by design, each with the reason.

The list itself is ``c_ext/format/plain.c``: the server's library creates no other file in
plaintext. ``docs/coverage.md`` shows the same rows to people (a test keeps the two equal), the
auditor prints them, and a file that is neither of an encrypted class nor in this list is a finding.
"""

from __future__ import annotations

from dataclasses import dataclass

from tde import _core


@dataclass(frozen=True)
class PlainRule:
    """Some files that ``tde`` leaves in plain text.

    Attributes:
        files: what they are, as docs/coverage.md names them.
        reason: why they may be plain; for a decision, what is in them.
        decision: whether they can hold pieces of rows, which the operator has to decide about.
    """

    files: str
    reason: str
    decision: bool


PLAIN_BY_DESIGN = tuple(PlainRule(*rule) for rule in _core.plain_rules())


def plain_rule(name: str) -> PlainRule | None:
    """Return the rule that makes a file plain by design, or ``None`` when there is none.

    Args:
        name: path relative to the data directory, with ``/`` between its parts.
    """
    number, _ = _core.find_plain_rule(name)
    return None if number < 0 else PLAIN_BY_DESIGN[number]


def is_written_by_server(name: str) -> bool:
    """Tell whether a server creates a file of this name itself."""
    return _core.find_plain_rule(name)[1]
