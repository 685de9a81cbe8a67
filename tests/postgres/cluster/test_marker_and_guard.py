"""What tde writes into a data directory: the marker and the guard."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from uuid import uuid4

import pytest

from tde.errors import ClusterKeystoreError, DataDirectoryError
from tde.postgres.cluster.guard import add_guard, ensure_guards, has_guard, remove_guard
from tde.postgres.cluster.marker import Marker, read_marker, require_matching_keystore
from tde.postgres.cluster.scope import Scope
from tde.postgres.server.interposer import GUARD_FILE
from tde.postgres.server.os_user import user_name
from tde.postgres.server.owned_files import append_to_file, write_owned_file


def test_marker_is_read_as_written(tmp_path):
    assert read_marker(tmp_path) is None
    marker = Marker(uuid4(), Path("/etc/tde/main"), Scope.TABLESPACES)
    marker.write(tmp_path, None)
    assert read_marker(tmp_path) == marker
    assert stat.S_IMODE((tmp_path / "tde.json").stat().st_mode) == 0o600
    assert [p.name for p in tmp_path.iterdir()] == ["tde.json"]
    require_matching_keystore(tmp_path, marker, marker.keystore_uuid)
    with pytest.raises(ClusterKeystoreError):
        require_matching_keystore(tmp_path, marker, uuid4())


@pytest.mark.parametrize(
    "change",
    [
        {"format": "other"},
        {"version": 3},
        {"scope": "everything"},
        {"keystore_uuid": "123"},
        {"keystore_uuid": None},
        {"keystore": None},
    ],
    ids=str,
)
def test_damaged_marker_is_refused(tmp_path, change):
    Marker(uuid4(), Path("/etc/tde/main"), Scope.CLUSTER).write(tmp_path, None)
    path = tmp_path / "tde.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(DataDirectoryError) as caught:
        read_marker(tmp_path)
    assert caught.value.remedy


@pytest.mark.parametrize("content", ["", "{", "[]", "\x00"])
def test_marker_that_is_not_json_is_refused(tmp_path, content):
    (tmp_path / "tde.json").write_text(content)
    with pytest.raises(DataDirectoryError):
        read_marker(tmp_path)


def test_guard_is_included(tmp_path):
    configuration = tmp_path / "postgresql.conf"
    configuration.write_text("port = 5432\n")
    add_guard(configuration, None)
    text = configuration.read_text()
    assert text.startswith("port = 5432\n")
    assert text.endswith(f"\ninclude {GUARD_FILE}\n")


def test_a_guard_of_earlier_releases_is_taken_out(tmp_path):
    """They put quotes around the name."""
    configuration = tmp_path / "postgresql.conf"
    configuration.write_text("port = 5432\n")
    add_guard(configuration, None)
    text = configuration.read_text()
    configuration.write_text(text.replace(f"include {GUARD_FILE}", f"include '{GUARD_FILE}'"))
    assert has_guard(configuration)
    remove_guard(configuration, None)
    assert configuration.read_text() == "port = 5432\n"


def test_links_are_not_written_through(tmp_path):
    target = tmp_path / "target"
    target.write_text("untouched")
    link = tmp_path / "link"
    link.symlink_to(target)
    with pytest.raises(OSError, match="symbolic links"):
        append_to_file(link, "x", None)
    write_owned_file(link, "new", None)  # Replaces the link itself.
    assert target.read_text() == "untouched"
    assert link.read_text() == "new"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give directories away")
def test_a_directory_that_root_has_unpacked_is_told_with_its_owner(
    encrypted_cluster_factory, any_binaries, os_user, tde_command, caplog
):
    made = encrypted_cluster_factory(any_binaries, start=False)
    directory = made.data_directory
    os.chown(directory, 0, 0)
    try:
        shown = tde_command("pg", "start", "-D", directory, "--passphrase-fd", 0, exit_code=1)
    finally:
        os.chown(directory, os_user.uid, os_user.gid)
    assert f"belongs to root, and the server would run as {os_user.name}" in shown.stderr
    assert f"HINT: chown -R {os_user.name} {directory}" in shown.stderr
    assert "append this line" not in shown.stderr


def test_a_configuration_that_cannot_be_read_is_not_said_to_lack_the_guard(
    encrypted_cluster_factory, any_binaries, os_user, caplog
):
    made = encrypted_cluster_factory(any_binaries, start=False)
    configuration = made.data_directory / "postgresql.conf"
    configuration.chmod(0)
    ensure_guards(made.data_directory, made.keystore.path, (), os_user)
    (record,) = caplog.records
    owner = user_name(made.data_directory.stat().st_uid)
    assert f"{configuration} may not be read or changed by the server's user" in record.message
    assert f"it belongs to {owner}" in record.message
    assert "append" not in record.message
