"""What PDFs need of the system; CI installs it (.ci/run)."""

from __future__ import annotations

import ctypes
import os

import pytest

from tde.report.layout import has_fonts


@pytest.fixture(scope="session")
def pdf_libraries() -> None:
    """Skip where the system lacks what WeasyPrint needs, but in CI."""
    try:
        for name in ("libpangoft2-1.0.so.0", "libharfbuzz-subset.so.0"):
            ctypes.CDLL(name)
        missing = "" if has_fonts() else "there is no font"
    except OSError as error:
        missing = str(error)
    if missing and os.environ.get("CI") != "true":
        pytest.skip(f"no PDF can be made here: {missing}")
