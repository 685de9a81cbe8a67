"""A plain cluster that was stopped, and a copy of it for each test."""

from __future__ import annotations

import shutil

import pytest

from tests.convert.conversions import Original, make_original


@pytest.fixture(scope="module")
def original(module_cluster_factory, any_binaries) -> Original:
    return make_original(module_cluster_factory, any_binaries)


@pytest.fixture
def copy(original, request):
    """A copy of the stopped cluster, for one test."""
    made = original.copy(request.node.name.replace("[", "-").rstrip("]"))
    yield made
    shutil.rmtree(made.data_directory)
