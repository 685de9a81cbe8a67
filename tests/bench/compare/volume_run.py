"""Keeps a LUKS volume, made by stub programs, until it is interrupted.

Called with a directory to work in, the folder of the stubs' state, and what the ``with`` block
does: "wait" or "return".
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from types import SimpleNamespace

import psutil
from tde_bench.compare import volumes
from tde_bench.measure.signals import signals_interrupt
from tde_bench.servers import workspace as workspace_module
from tde_bench.servers.workspace import workspace

VOLUME_BYTES = 1 << 20


def main(directory: Path, state: Path, then: str) -> None:
    def partitions(all: bool) -> list[SimpleNamespace]:
        lines = (state / "mounts").read_text().splitlines()
        return [SimpleNamespace(mountpoint=line) for line in lines]

    psutil.disk_partitions = partitions  # type: ignore[assignment]
    volumes._MAPPINGS = state / "mapper"
    volumes._VOLUME_BYTES = VOLUME_BYTES
    volumes._UNDO_SECONDS = 1
    volumes._FINISH_SECONDS = 0.5  # type: ignore[assignment]
    workspace_module._REMOVE_ATTEMPTS = 2
    with (
        signals_interrupt(),
        workspace(directory, keep=False) as folder,
        volumes.luks(folder) as volume,
    ):
        (volume.mount_point / "inside").touch()
        # A block of `stat` has 512 bytes on every filesystem.
        allocated = 512 * (folder / "luks-image").stat().st_blocks
        (state / "allocated").write_text(str(allocated))
        if then == "wait":
            time.sleep(600)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
