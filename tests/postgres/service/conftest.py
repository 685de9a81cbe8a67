"""What every test here has of its own."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def own_registrations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep what one test registers from another, which would find its clusters dropped."""
    monkeypatch.setenv("TDE_REGISTERED", str(tmp_path / "registered"))
