"""Every error that tde raises on purpose, in one hierarchy.

The command line prints the message, then the remedy as a hint, and exits with
``exit_code``; a library user catches :class:`TdeError` or one of its subclasses.
"""

from __future__ import annotations


class TdeError(Exception):
    """Base of all errors of this package.

    Args:
        message: what happened and to which file, in plain words.
        remedy: what the operator can do about it; empty when there is nothing to do.
    """

    exit_code: int = 1

    def __init__(self, message: str, *, remedy: str = "") -> None:
        super().__init__(message)
        self.remedy = remedy


# Page cryptography.


class PageError(TdeError, ValueError):
    """The arguments of a page operation cannot be used."""


class KeyLengthError(PageError):
    """The key does not have the length that the algorithm needs."""


class BufferLengthError(PageError):
    """A buffer is not a whole number of pages, or two buffers differ in length."""


class IdentityError(PageError):
    """A page identity has a field outside its range."""


# Keystore.


class KeystoreError(TdeError):
    """The keystore cannot be created, opened or used."""


# PostgreSQL integration.


class PostgresError(TdeError):
    """A PostgreSQL program or server cannot be found, started or used."""
