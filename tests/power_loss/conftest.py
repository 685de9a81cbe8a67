"""The compiled recorder, or the reason why there is none."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.power_loss.recording import build_recorder, why_unavailable


@pytest.fixture(scope="session")
def recorder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    reason = why_unavailable()
    if reason is not None:
        pytest.skip(reason)
    return build_recorder(tmp_path_factory.mktemp("recorder"))
