"""Make the directory of wrapped programs, with a keystore of its own, for the suites."""

from __future__ import annotations

from pathlib import Path

from suite_sources import SuitesError, Tree


def make_wrappers(tree: Tree, scratch: Path) -> Path:
    """Return a directory of programs that encrypt every cluster they make.

    Raises:
        SuitesError: this tde cannot make one.
    """
    raise SuitesError("tde pg install-bin is missing")
