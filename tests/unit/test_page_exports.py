"""What ``import tde`` offers, and that it loads nothing before it is used."""

from __future__ import annotations

import subprocess
import sys

import pytest

import tde

LOADED = "import sys, tde; print(*sorted(m for m in sys.modules if m.startswith('tde')))"


def test_import_is_lazy() -> None:
    done = subprocess.run(
        [sys.executable, "-c", LOADED], check=True, capture_output=True, text=True
    )
    # An editable install may bring a module of its own, but nothing of the package besides what
    # loads the rest.
    assert done.stdout.split() == ["tde", "tde.lazy"]


@pytest.mark.parametrize("name", tde.__all__)
def test_every_public_name_exists(name: str) -> None:
    assert getattr(tde, name) is not None
    assert name in dir(tde)


def test_unknown_names_are_attribute_errors() -> None:
    with pytest.raises(AttributeError, match="no attribute 'PageCypher'"):
        tde.PageCypher  # type: ignore[attr-defined]  # noqa: B018
