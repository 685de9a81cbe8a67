"""What tests of reports share: a keystore that seals them, and what PDFs need."""

from __future__ import annotations

import pytest

from tde.keystore import Keystore
from tests.pdf_libraries import pdf_libraries

__all__ = ["pdf_libraries"]


@pytest.fixture
def keystore(keystore_factory) -> Keystore:
    return keystore_factory("keystore")
