"""Fixtures for tests with the tools of others."""

from __future__ import annotations

import pytest

from tests.tools.site import make_site


@pytest.fixture
def site(binaries, keystore_factory, os_user_tmp_path, os_user):
    """Programs for encrypted clusters of each PostgreSQL version in turn."""
    with make_site(binaries, keystore_factory("ks"), os_user_tmp_path, os_user) as made:
        yield made
