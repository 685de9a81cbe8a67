"""A running and a stopped cluster, to plant defects in."""

from __future__ import annotations

import pytest

from tests.postgres.cluster_copies import configure


@pytest.fixture(scope="module")
def running(module_cluster_factory, postgres_installations):
    """A server of the oldest version."""
    return module_cluster_factory(next(iter(postgres_installations.values())), name="running")


@pytest.fixture(scope="module")
def stopped(module_cluster_factory, postgres_installations):
    """A cluster of the newest version."""
    newest = list(postgres_installations.values())[-1]
    return module_cluster_factory(newest, name="stopped", start=False)


@pytest.fixture
def settings(stopped):
    """Replace what the test puts into postgresql.auto.conf of the stopped cluster."""
    file = stopped.data_directory / "postgresql.auto.conf"
    before = file.read_text()

    def plant(*lines: str) -> None:
        file.write_text(before)
        configure(stopped, lines)

    yield plant
    file.write_text(before)
