"""What tests of reports share: an open keystore that seals them, and finding attachments."""

from __future__ import annotations

import pytest

from tde.keystore import Keystore


@pytest.fixture
def keystore(keystore_factory) -> Keystore:
    return keystore_factory("keystore")
