"""Stands in for cryptsetup, mkfs.ext4, mount and umount, which need root and a device mapper.

Called with the folder of its state, the program's name and the program's arguments. The folder
holds ``calls`` (a line per call), ``mapper`` (a file per mapping), ``mounts`` (a line per mount)
and ``plan``: for each step "hang" (after its effect), "fail", or "busy" (fail the first time).
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path


def main(state: Path, program: str, arguments: list[str]) -> None:
    words = [
        word for word in arguments if word in ("luksFormat", "open", "close", "--deferred", "-l")
    ]
    step = " ".join([program, *words])
    calls = state / "calls"
    before = calls.read_text().splitlines() if calls.exists() else []
    with calls.open("a") as file:
        file.write(" ".join([program, *arguments]) + "\n")
    with (state / "groups").open("a") as file:
        file.write(f"{os.getpgrp()}\n")
    plan = json.loads((state / "plan").read_text()).get(step)
    first = not any(line.startswith(" ".join([program, *arguments])) for line in before)
    if plan == "fail" or (plan == "busy" and first):
        sys.exit(f"{step}: target is busy")
    _act(state, step, arguments)
    if plan == "hang":
        time.sleep(600)


def _act(state: Path, step: str, arguments: list[str]) -> None:
    mapping, mounts = state / "mapper" / arguments[-1], state / "mounts"
    if step == "cryptsetup open":
        mapping.touch()
    elif step == "cryptsetup close":
        if mounts.read_text():
            sys.exit("device is still in use")
        mapping.unlink()
    elif step == "mount":
        mounts.write_text(arguments[-1] + "\n")
    elif step.startswith("umount"):
        mounts.write_text("")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3:])
