"""The fuzz targets on their seeds, and on each seed cut and changed everywhere.

`make fuzz` looks for new inputs; this keeps the targets building and their properties true.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.fuzz.fuzz_targets import TARGETS, Target, build


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_nothing_is_found_in_the_seeds(target: Target, tmp_path: Path) -> None:
    seeds = sorted(target.seeds.iterdir())
    assert seeds
    program = build(target, tmp_path, clang=None)
    run = subprocess.run([program, *seeds], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert run.stdout == f"{len(seeds)} files\n"
