"""What backup tools are told, and that nobody else's lines are touched."""

from __future__ import annotations

import os
import re
from contextlib import suppress

import pytest
from typer.testing import CliRunner

from tde.cli.app import app
from tde.errors import ConfigurationFileError
from tde.postgres.cluster import tool_settings as tool_settings_module
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


@pytest.mark.skipif(os.geteuid() != 0, reason="root is who is misled")
def test_root_changes_no_other_file_by_a_link(tmp_path, os_user_tmp_path, os_user):
    """The directory belongs to the tool's user, who links the file to one of root's."""
    secret = tmp_path / "shadow"
    secret.write_text("root:secret\n")
    secret.chmod(0o600)
    file = os_user_tmp_path / "pgbackrest.conf"
    file.symlink_to(secret)
    with pytest.raises(ConfigurationFileError):
        add_settings(file, tool_settings(BackupTool.PGBACKREST, None))
    assert secret.read_text() == "root:secret\n"


@pytest.mark.skipif(os.geteuid() != 0, reason="root is who is misled")
def test_root_copies_no_file_for_who_exchanges_it(
    tmp_path, os_user_tmp_path, os_user, monkeypatch: pytest.MonkeyPatch
):
    """Between the look and the write the link becomes a file of the user's."""
    secret = tmp_path / "shadow"
    secret.write_text("root:secret\n")
    secret.chmod(0o600)
    file = os_user_tmp_path / "pgbackrest.conf"
    file.symlink_to(secret)
    real = tool_settings_module._missing

    def exchange(*words):
        file.unlink()
        file.touch()
        os.chown(file, os_user.uid, os_user.gid)
        return real(*words)

    monkeypatch.setattr(tool_settings_module, "_missing", exchange)
    with suppress(ConfigurationFileError):
        add_settings(file, tool_settings(BackupTool.PGBACKREST, None))
    assert "secret" not in (file.read_text() if not file.is_symlink() else "")


@pytest.mark.skipif(os.geteuid() != 0, reason="root works for another")
def test_a_file_in_a_directory_of_the_tools_user_is_changed(os_user_tmp_path, os_user):
    file = os_user_tmp_path / "pgbackrest.conf"
    file.write_text(OLD)
    os.chown(file, os_user.uid, os_user.gid)
    assert add_settings(file, tool_settings(BackupTool.PGBACKREST, None)) == LINES
    assert file.stat().st_uid == os_user.uid
    # So is one that root has put there, and that its user may read.
    file.unlink()
    file.write_text(OLD)
    assert add_settings(file, tool_settings(BackupTool.PGBACKREST, None)) == LINES
