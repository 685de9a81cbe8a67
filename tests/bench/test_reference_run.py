"""``make reference``: whoever interrupts it gets a tidy machine back, however long that takes."""

from __future__ import annotations

import runpy
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

REFERENCE = Path(__file__).parents[2] / "bench" / "reference.py"
DEADLINE_SECONDS = 60

# Cleans up for two seconds after the first signal; a second one would break that off.
_STUB = """\
#!{python}
import pathlib, signal, sys, time
here = pathlib.Path(__file__).parent
def stop(number, frame):
    time.sleep(2)
    (here / "cleaned").touch()
    sys.exit(130)
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, stop)
(here / "started").touch()
time.sleep({seconds})
"""


def _reference(folder: Path, stub: str) -> subprocess.Popen[str]:
    """Start bench/reference.py on another tde-bench, which it looks for beside its Python."""
    (folder / "python").symlink_to(sys.executable)
    program = folder / "tde-bench"
    program.write_text(stub)
    program.chmod(0o755)
    code = (
        f"import runpy, sys; sys.executable = {str(folder / 'python')!r}; "
        f"sys.argv = ['reference.py', {str(folder / 'results')!r}, 'pages']; "
        f"runpy.run_path({str(REFERENCE)!r}, run_name='__main__')"
    )
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_waits_for_the_clean_up(tmp_path: Path, number: signal.Signals) -> None:
    process = _reference(tmp_path, _STUB.format(python=sys.executable, seconds=DEADLINE_SECONDS))
    try:
        deadline = time.monotonic() + DEADLINE_SECONDS
        while not (tmp_path / "started").exists():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(number)
        time.sleep(0.5)
        process.send_signal(number)
        assert process.wait(DEADLINE_SECONDS) == 130
    finally:
        process.kill()
        process.wait()
    assert (tmp_path / "cleaned").exists()


@pytest.mark.parametrize("status", [0, 1, 3])
def test_the_status_of_a_benchmark_is_passed_on(tmp_path: Path, status: int) -> None:
    process = _reference(tmp_path, f"#!/bin/sh\nexit {status}\n")
    output, _ = process.communicate(timeout=DEADLINE_SECONDS)
    assert process.returncode == status
    # The report is made only of what went well.
    assert ("$ tde-bench report" in output) == (status == 0)


def test_the_table_of_results_has_the_commands() -> None:
    commands: dict[str, str] = runpy.run_path(str(REFERENCE))["COMMANDS"]
    table = (REFERENCE.parents[1] / "results" / "README.md").read_text(encoding="utf-8")
    for name, arguments in commands.items():
        assert f"| `{name}` | `tde-bench {arguments}`" in table
