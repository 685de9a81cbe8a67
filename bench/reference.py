"""Run every benchmark once and make the report: how the files in results/ were made.

Run it with ``make reference``. A benchmark that was measured before is kept when it is not
named: ``make reference REFERENCE_ARGS="oltp pages"`` repeats only those two and the report.
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from synchronous_pairs import synchronous_pairs

TDE_BENCH = Path(sys.executable).with_name("tde-bench")
_FORWARDED = (signal.SIGINT, signal.SIGTERM)

SYNCHRONOUS = "synchronous"

# The arguments of each benchmark; results go into files of its name.
COMMANDS: dict[str, str] = {
    "oltp": "oltp --aes 128 --aes 256 --control --rounds 24 --duration 5",
    "select-only": "oltp --aes 256 --workload select-only --control --rounds 24 --duration 5",
    "random-update": "oltp --aes 256 --workload random-update --duration 10 --rounds 6",
    "simple-update": "oltp --aes 256 --workload simple-update --duration 5 --rounds 6",
    "wal-insert": "oltp --aes 256 --workload wal-insert --duration 5 --rounds 6",
    "connect": "oltp --aes 256 --workload connect --duration 5 --rounds 6",
    "many-relations": "oltp --aes 256 --workload many-relations --duration 5 --rounds 6",
    "partitions": "oltp --aes 256 --workload partitions --duration 5 --rounds 6",
    "connections": "oltp --aes 256 --workload select-only --clients 500 --duration 10 --rounds 6",
    "tpcc": "oltp --aes 256 --workload tpcc --duration 10 --rounds 6",
    "rate": "oltp --aes 256 --rate 500 --protocol prepared --duration 5 --rounds 6",
    "clients": "oltp --aes 256 --clients 1,4,16,64 --scale 64 --duration 5",
    "scales": "oltp --aes 256 --scale 5,20,80 --duration 5",
    "batch": "batch",
    "batch-limit": "batch --aes 256 --cipher hardware --rounds 12",
    "pages": "pages",
    "pages-large": "pages --backend tde --aes 256 --pages 2048 --pages 8192",
    "io": "io --aes 128 --aes 256 --rounds 24",
    "compare": "compare",
    "check": "check",
    # On servers that are made first.
    SYNCHRONOUS: "oltp --duration 5 --rounds 12",
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
    for name in arguments.names or COMMANDS:
        with servers(name) as options:
            status = run(*COMMANDS[name].split(), *options, *outputs(name, folder / name))
        if status:
            return status
    return run("report", *results(folder), *report_outputs(folder))


@contextmanager
def servers(name: str) -> Iterator[list[str]]:
    """Keep the servers up that a benchmark does not make itself; yield the options for them."""
    if name != SYNCHRONOUS:
        yield []
        return
    with synchronous_pairs() as options:
        yield options


def run(*arguments: str) -> int:
    """Run tde-bench and show its command line; returns its exit status, 130 after Ctrl-C.

    However long tde-bench takes to stop its servers and to remove their files, it is waited for:
    :func:`subprocess.run` would kill it a quarter of a second after Ctrl-C.
    """
    print("\n$ tde-bench", *arguments, flush=True)
    with _FirstSignal() as interruption:
        # A session of its own: Ctrl-C in the terminal would reach tde-bench a second time.
        process = subprocess.Popen([TDE_BENCH, *arguments], start_new_session=True)
        interruption.goes_to(process)
        status = process.wait()
    # The shell's convention for a program that a signal has ended.
    return status if status >= 0 else 128 - status


class _FirstSignal:
    """Passes on the first SIGINT or SIGTERM; an impatient second one must not stop a clean-up."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._seen = False
        # Holds the signal while there is no process yet.
        self._waiting: list[int] = []

    def __enter__(self) -> _FirstSignal:
        self._previous = {number: signal.signal(number, self._receive) for number in _FORWARDED}
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def goes_to(self, process: subprocess.Popen[bytes]) -> None:
        """Name the process, which gets what has come in the meantime."""
        self._process = process
        self._deliver()

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if not self._seen:
            self._seen = True
            self._waiting.append(number)
            self._deliver()

    def _deliver(self) -> None:
        if self._process is not None and self._waiting:
            self._process.send_signal(self._waiting.pop())


def outputs(name: str, stem: Path) -> list[str]:
    """Return the options for everything that a benchmark can write."""
    json = f"--json={stem}.json"
    # A check has nothing but its table.
    return [json] if name == "check" else [json, f"--csv={stem}.csv", f"--chart={stem}.png"]


def results(folder: Path) -> list[str]:
    """Return the results that are there, in the order of the commands."""
    return [str(path) for name in COMMANDS if (path := folder / f"{name}.json").exists()]


def report_outputs(folder: Path) -> list[str]:
    """Return the options of the report."""
    return [f"--html={folder}/report.html", f"--markdown={folder}/report.md"]


if __name__ == "__main__":
    sys.exit(main())
