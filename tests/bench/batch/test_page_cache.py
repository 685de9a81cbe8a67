"""Files are really out of the page cache before a scan is called cold."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from tde_bench.batch import page_cache
from tde_bench.measure.metadata import filesystem_of


@pytest.fixture
def file() -> Iterator[Path]:
    """A file of 8 MiB and a bit on a disk."""
    handle, name = tempfile.mkstemp(prefix="tde-bench-test-", dir="/var/tmp")
    with os.fdopen(handle, "wb") as stream:
        stream.write(os.urandom((8 << 20) + 17))
    yield Path(name)
    Path(name).unlink()


def test_what_was_just_written_is_cached_and_can_be_dropped(file: Path) -> None:
    if filesystem_of(file.parent).type == "tmpfs":
        pytest.skip("nothing can be dropped from a tmpfs")
    assert page_cache.cached_fraction(file) == 1.0
    page_cache.drop(file)
    assert page_cache.cached_fraction(file) < 0.01
    # Asking has not read anything.
    assert page_cache.cached_fraction(file) < 0.01
    with file.open("rb") as stream:
        stream.read()
    assert page_cache.cached_fraction(file) == 1.0


def test_an_empty_file_is_not_cached(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    assert page_cache.cached_fraction(tmp_path / "empty") == 0.0
