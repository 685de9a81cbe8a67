"""The environment without libpq's variables, which would change how a server is reached."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator


@contextlib.contextmanager
def without_libpq_variables() -> Iterator[None]:
    """Take libpq's variables out of this process's environment for the time of a block."""
    before = dict(os.environ)
    for name in before.keys() - clean_environment().keys():
        del os.environ[name]
    try:
        yield
    finally:
        os.environ.update(before)


def clean_environment() -> dict[str, str]:
    """Return this process's environment without libpq's variables.

    A PGOPTIONS or PGSSLMODE of the user must not change how an ephemeral server is measured.
    """
    return {name: value for name, value in os.environ.items() if not name.startswith("PG")}
