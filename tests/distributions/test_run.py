"""The script that runs tests on other releases takes nothing away that it has not made."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("run.sh")


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([SCRIPT, *map(str, arguments)], capture_output=True, text=True)


def test_help_names_every_option():
    shown = run("--help")
    assert shown.returncode == 0
    for option in ("--root", "--mirror", "--target", "--bind", "--remove", "trixie|sid"):
        assert option in shown.stdout


@pytest.mark.parametrize("arguments", [(), ("bookworm",), ("sid", "--root"), ("--remove",)])
def test_what_it_does_not_know_is_refused(arguments):
    refused = run(*arguments)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr.startswith("run.sh: ")


@pytest.mark.skipif(os.geteuid() != 0, reason="a chroot is made by root")
def test_directories_of_others_stay(tmp_path):
    (tmp_path / "file").touch()
    for more in (("--remove",), ("--", "--version")):
        refused = run("trixie", "--root", tmp_path, *more)
        assert refused.returncode == 1
        assert str(tmp_path) in refused.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/tde-chroot").touch()
    assert run("trixie", "--root", tmp_path, "--remove").returncode == 0
    assert not tmp_path.exists()
    assert run("trixie", "--root", tmp_path, "--remove").returncode == 0
