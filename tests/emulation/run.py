"""``make aarch64-here``: run each area, and leave a report of it."""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
from pathlib import Path

from tests.emulation import AREAS, ENVIRONMENT

REPOSITORY = Path(__file__).parents[2]
REPORTS = Path("build/aarch64")


def main() -> int:
    parser = argparse.ArgumentParser(prog="make aarch64-here", description=__doc__)
    known = [area.key for area in AREAS]
    parser.add_argument("--area", action="append", choices=known, help="only this one; repeatable")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="[all processors]")
    options = parser.parse_args()
    if platform.machine() != "aarch64":
        parser.error("this machine is none of 64-bit ARM; `make aarch64` runs these tests on one")
    # Without emulation nothing is left out.
    environment = {**os.environ, **(ENVIRONMENT if "EMULATED" in os.environ else {})}
    failed = False
    for area in AREAS:
        if options.area and area.key not in options.area:
            continue
        report = REPOSITORY / REPORTS / f"{area.key}.xml"
        report.unlink(missing_ok=True)  # What is interrupted leaves none.
        command = [sys.executable, "-m", "pytest", "-m", "not slow", "-n", str(options.workers)]
        # Emulation takes ten to twenty times as long.
        command += ["-o", "timeout=3600", f"--junitxml={report}", *area.tests]
        failed |= (
            subprocess.run(command, cwd=REPOSITORY, env=environment, check=False).returncode != 0
        )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
