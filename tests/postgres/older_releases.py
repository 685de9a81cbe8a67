"""Clusters as the first release of tde left them: version 1 in tde.json, and no key map."""

from __future__ import annotations

import json
from dataclasses import replace

from tde.postgres.cluster.keymap import KEYMAP_FILE
from tests.conftest import RunningCluster


def landed(made: RunningCluster) -> None:
    """Make a cluster one of a release before the key map."""
    marker = made.cluster.marker
    assert marker is not None
    (made.data_directory / KEYMAP_FILE).unlink()
    replace(marker, has_map=False).write(made.data_directory, made.cluster.os_user)
    assert json.loads((made.data_directory / "tde.json").read_text())["version"] == 1
