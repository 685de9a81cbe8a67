"""Run every benchmark once and make the report: how the files in results/ were made.

Run it with ``make reference``. A benchmark that was measured before is kept when it is not
named: ``make reference REFERENCE_ARGS="oltp pages"`` repeats only those two and the report.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

TDE_BENCH = Path(sys.executable).with_name("tde-bench")

# The arguments of each benchmark; results go into files of its name.
COMMANDS: dict[str, str] = {
    "oltp": "oltp --aes 256",
    "select-only": "oltp --aes 256 --workload select-only --duration 10",
    "random-update": "oltp --aes 256 --workload random-update --duration 10 --rounds 6",
    "clients": "oltp --aes 256 --clients 1,4,16,64 --scale 64",
    "scales": "oltp --aes 256 --scale 5,20,80",
    "batch": "batch",
    "batch-limit": "batch --aes 256 --cipher hardware --rounds 12",
    "pages": "pages",
    "pages-large": "pages --backend tde --aes 256 --pages 2048 --pages 8192",
    "compare": "compare",
}


def main() -> int:
    """Run what was asked for, then the report; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", type=Path, help="where the results go")
    parser.add_argument(
        "names", nargs="*", help=f"what to run; default: all of {', '.join(COMMANDS)}"
    )
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - set(COMMANDS):
        parser.error(f"there is no benchmark {', '.join(sorted(unknown))}")
    folder: Path = arguments.directory
    folder.mkdir(parents=True, exist_ok=True)
    try:
        for name in arguments.names or COMMANDS:
            run(*COMMANDS[name].split(), *outputs(folder / name))
        run("report", *results(folder), *report_outputs(folder))
    except subprocess.CalledProcessError as error:
        return error.returncode
    except KeyboardInterrupt:
        return 130
    return 0


def run(*arguments: str) -> None:
    """Run tde-bench and show its command line."""
    print("\n$ tde-bench", *arguments, flush=True)
    subprocess.run([TDE_BENCH, *arguments], check=True)


def outputs(stem: Path) -> list[str]:
    """Return the options for everything that a benchmark can write."""
    return [f"--json={stem}.json", f"--csv={stem}.csv", f"--chart={stem}.png"]


def results(folder: Path) -> list[str]:
    """Return the results that are there, in the order of the commands."""
    return [str(path) for name in COMMANDS if (path := folder / f"{name}.json").exists()]


def report_outputs(folder: Path) -> list[str]:
    """Return the options of the report."""
    return [f"--html={folder}/report.html", f"--markdown={folder}/report.md"]


if __name__ == "__main__":
    sys.exit(main())
