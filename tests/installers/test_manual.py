"""Manual pages and completions, which the Debian package brings."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

_PROGRAM = Path(__file__).parents[2] / "installers" / "manual.py"


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("manual")
    command = [sys.executable, _PROGRAM, "--man", directory / "man", "--completions", directory]
    environment = {"PATH": "/usr/bin:/bin", "SOURCE_DATE_EPOCH": "86400"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)
    assert done.returncode == 0, done.stderr
    return directory


def test_each_command_has_a_page_with_what_its_help_says(written):
    names = {path.stem for path in (written / "man").iterdir()}
    assert {"tde", "tde-pg", "tde-pg-start", "tde-keystore-auto-open-enable", "tde-psql"} <= names
    page = (written / "man" / "tde-pg-register.1").read_text()
    assert page.startswith('.TH "TDE-PG-REGISTER" 1 "1970-01-02" "tde ')
    for shown in (
        "\\-\\-keystore DIR",
        "pg_ctl_options",
        "$ tde pg register 15/main",
        "\\fBtde\\-pg\\fR(1)",
    ):
        assert shown in page
    # The markup of a terminal has no place on paper.
    everything = "".join(path.read_text() for path in (written / "man").iterdir())
    assert "[bold]" not in everything
    assert "[dim]" not in everything
    assert "TDE_KEYSTORE" in everything


@pytest.mark.skipif(shutil.which("groff") is None, reason="there is no groff")
def test_groff_has_nothing_to_say_about_them(written):
    for page in (written / "man").iterdir():
        command = ["groff", "-man", "-Tutf8", "-K", "utf8", "-z", "-ww", page]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert (done.returncode, done.stderr) == (0, ""), page.name


def test_bash_completes_nouns_and_verbs(written):
    script = written / "bash-completion/completions/tde"
    tde = Path(sys.executable).with_name("tde")
    # As an interactive bash does at the second tabulator.
    commands = f"source {script}; COMP_WORDS=({tde} pg reg); COMP_CWORD=2; "
    commands += f'_tde_completion {tde}; echo "${{COMPREPLY[@]}}"'
    done = subprocess.run(["bash", "-c", commands], capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == ["register"], done.stderr
    assert (written / "zsh/vendor-completions/_tde").read_text().startswith("#compdef tde")
    assert (written / "fish/vendor_completions.d/tde.fish").is_file()
