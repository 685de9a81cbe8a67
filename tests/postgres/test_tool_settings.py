"""What backup tools are told, and that nobody else's lines are touched."""

from __future__ import annotations

import re

import pytest
from typer.testing import CliRunner

from tde.cli.app import app
from tde.errors import ConfigurationFileError
from tde.postgres.cluster.tool_settings import BackupTool, add_settings, tool_settings

OLD = """\
# of others
[global]
repo1-path=/srv/repository

[main]
pg1-path=/srv/pg/main
"""
LINES = ["archive-header-check=n", "checksum-page=n"]


def test_lines_are_added_to_their_section_only(tmp_path):
    file = tmp_path / "pgbackrest.conf"
    file.write_text(OLD)
    file.chmod(0o640)
    settings = tool_settings(BackupTool.PGBACKREST, None)
    assert add_settings(file, settings) == LINES
    added = "\n".join(LINES)
    expected = OLD.replace("/srv/repository\n", f"/srv/repository\n{added}\n")
    assert file.read_text() == expected
    assert file.stat().st_mode & 0o777 == 0o640
    assert list(tmp_path.iterdir()) == [file]
    # Once more changes nothing.
    assert add_settings(file, settings) == []
    assert file.read_text() == expected


def test_a_section_is_made(tmp_path):
    file = tmp_path / "pgbackrest.conf"
    settings = tool_settings(BackupTool.PGBACKREST, None, "other")
    add_settings(file, settings)
    assert file.read_text() == "\n".join(["[other]", *LINES, ""])
    file.write_text(OLD)
    add_settings(file, settings)
    assert file.read_text() == OLD + "\n".join(["", "[other]", *LINES, ""])


def test_a_line_that_says_otherwise_is_left_and_named(tmp_path):
    file = tmp_path / "pgbackrest.conf"
    old = OLD.replace("[main]", "checksum-page=y\n[main]")
    file.write_text(old)
    with pytest.raises(ConfigurationFileError, match=re.escape(f"{file}, line 5, in [global]")):
        add_settings(file, tool_settings(BackupTool.PGBACKREST, None))
    assert file.read_text() == old
    # Another cluster's section is not ours.
    assert add_settings(file, tool_settings(BackupTool.PGBACKREST, None, "main")) == LINES


def test_a_link_stays_a_link(tmp_path):
    file, link = tmp_path / "real.conf", tmp_path / "link.conf"
    file.write_text(OLD)
    link.symlink_to(file)
    add_settings(link, tool_settings(BackupTool.PGBACKREST, None))
    assert link.is_symlink()
    assert LINES[0] in file.read_text()


def test_the_command(tmp_path):
    run = CliRunner()
    shown = run.invoke(app, ["pg", "install-bin", "--for", "pgbackrest"])
    assert shown.exit_code == 0
    assert shown.stdout.splitlines() == ["[global]", *LINES]
    assert run.invoke(app, ["pg", "install-bin", "--for", "barman"]).exit_code == 2
    assert run.invoke(app, ["pg", "install-bin"]).exit_code == 2
    assert run.invoke(app, ["pg", "install-bin", "x", "--write", "y"]).exit_code == 2
    file = tmp_path / "missing/barman.conf"
    command = ["pg", "install-bin", "--for", "pgbackrest", "--write", str(file)]
    failed = run.invoke(app, command)
    assert failed.exit_code == 1
    assert "its directory must exist" in failed.output
