"""The files from which packages are made, as far as they can be checked without making any."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tde.version import __version__

_ROOT = Path(__file__).parents[2]
_SCRIPTS = [
    *(path for path in sorted((_ROOT / "installers").iterdir()) if not path.suffix),
    *sorted(_ROOT.glob("debian/*.p*")),
    _ROOT / "tests/installers/deb_scenario.sh",
]


def test_the_debian_package_has_the_version_of_tde():
    first = (_ROOT / "debian/changelog").read_text().splitlines()[0]
    found = re.fullmatch(r"tde \(([^)]+)\) \w+; urgency=\w+", first)
    assert found is not None
    assert found[1] == __version__


@pytest.mark.parametrize(
    "script", [path for path in _SCRIPTS if path.is_file()], ids=lambda path: path.name
)
def test_a_shell_understands_each_script(script):
    shell = script.read_text().splitlines()[0].removeprefix("#!").split()[-1]
    done = subprocess.run([shell, "-n", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_what_the_rules_ask_of_python_is_answered():
    """The example of a drop-in, which the package brings, is made while it is built."""
    asked = re.findall(r"python3 -c '([^']+)'", (_ROOT / "debian/rules").read_text())
    assert any("drop_in" in program for program in asked)
    for program in asked:
        if "import sys" in program:  # Which is of the build itself.
            continue
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "")
        assert "LimitCORE=0" in done.stdout
