"""A cluster as a cluster manager has it: its keystore opens by itself."""

from __future__ import annotations

import pytest

from tde.keystore import Keystore
from tests.conftest import RunningCluster
from tests.keystore.cheap_passphrase import PASSPHRASE


@pytest.fixture
def made(any_binaries, encrypted_cluster_factory) -> RunningCluster:
    """A running cluster whose keystore opens by itself."""
    found: RunningCluster = encrypted_cluster_factory(any_binaries)
    assert found.keystore is not None
    with Keystore.open(found.keystore.path, PASSPHRASE) as keystore:
        keystore.enable_auto_open()
    return found
