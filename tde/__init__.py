"""Transparent data encryption for stock, unmodified PostgreSQL.

The names below are imported on first use, so ``import tde`` costs nothing to a program
that needs only a part of the package.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tde.algorithms import Algorithm
    from tde.errors import BufferLengthError, IdentityError, KeyLengthError, PageError, TdeError
    from tde.page.codec import PageCipher
    from tde.page.identity import FileIdentity, Fork, RelationIdentity, WalIdentity

    __version__: str

__all__ = [
    "Algorithm",
    "BufferLengthError",
    "FileIdentity",
    "Fork",
    "IdentityError",
    "KeyLengthError",
    "PageCipher",
    "PageError",
    "RelationIdentity",
    "TdeError",
    "WalIdentity",
    "__version__",
]

_HOMES = {
    "Algorithm": "tde.algorithms",
    "BufferLengthError": "tde.errors",
    "FileIdentity": "tde.page.identity",
    "Fork": "tde.page.identity",
    "IdentityError": "tde.errors",
    "KeyLengthError": "tde.errors",
    "PageCipher": "tde.page.codec",
    "PageError": "tde.errors",
    "RelationIdentity": "tde.page.identity",
    "TdeError": "tde.errors",
    "WalIdentity": "tde.page.identity",
}


if not TYPE_CHECKING:  # Type checkers would take it to mean that every name exists.

    def __getattr__(name: str) -> object:
        """Import what is asked for and keep it, so that this runs once per name."""
        if name == "__version__":
            from importlib.metadata import version

            value: object = version("tde")
        elif name in _HOMES:
            from importlib import import_module

            value = getattr(import_module(_HOMES[name]), name)
        else:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    """List the lazy names beside those that are loaded."""
    return sorted({*globals(), *__all__})
