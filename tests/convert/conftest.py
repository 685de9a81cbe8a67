"""A plain cluster that was stopped, and a copy of it for each test."""

from __future__ import annotations

import shutil

import pytest

from tde.algorithms import Algorithm
from tde.postgres import encrypt_cluster
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


@pytest.fixture
def encrypted(copy, keystore_factory):
    """An encrypted cluster that was stopped, and its keystore."""
    keystore = keystore_factory()
    encrypt_cluster(copy, keystore, algorithm=Algorithm.AES256)
    return copy, keystore
