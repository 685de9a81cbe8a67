"""`tde keystore verify --backup`: which keys a backup needs, and whether they are there."""

from __future__ import annotations

import json
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tde.algorithms import Algorithm
from tde.cli.app import app
from tde.keystore import KeyOwner, Keystore
from tde.postgres import create_tablespace
from tde.postgres.cluster import accepted_lines
from tde.postgres.cluster.keymap import KEYMAP_FILE, KeySource, MapEntry, write_map
from tde.postgres.cluster.keystore_verification import check_keystore_files, needed_keys
from tests.keystore.cheap_passphrase import PASSPHRASE
from tests.postgres.cluster_copies import base_backup, configure, make_directory

runner = CliRunner(env={"TDE_KEYSTORE": None, "COLUMNS": "200", "NO_COLOR": "1"})


@pytest.fixture
def made(any_binaries, encrypted_cluster_factory, os_user_tmp_path):
    """A cluster with a tablespace that has a key of its own and one that was made in SQL."""
    made = encrypted_cluster_factory(any_binaries)
    create_tablespace(
        made.cluster, made.keystore, "own", os_user_tmp_path / "own", Algorithm.AES128
    )
    made.query(f"CREATE TABLESPACE sql LOCATION '{make_directory(made, os_user_tmp_path / 'sql')}'")
    return made


def files_needed(found) -> dict[str, bool]:
    return {key.file: not key.problem for key in found.keys}


def named_key(keystore: Keystore) -> Path:
    (found,) = [file for file in (keystore.path / "keys").iterdir() if len(file.name) == 36]
    return found


def test_a_running_cluster_and_a_backup_in_tar_format(made, os_user_tmp_path):
    wanted = {"wal.key", "1663.key", "1664.key", "other.key", named_key(made.keystore).name}
    found = needed_keys(made.data_directory, made.keystore)
    assert found.good, found
    assert files_needed(found) == dict.fromkeys(wanted, True)

    backup = os_user_tmp_path / "backup"
    base_backup(made, backup, "--format=tar", "--wal-method=none")
    packed = needed_keys(backup, made.keystore)
    assert "in tar format" in packed.problem
    assert "base.tar" in packed.remedy
    unpacked = os_user_tmp_path / "unpacked"
    unpacked.mkdir()
    subprocess.run(["tar", "-xf", backup / "base.tar", "-C", unpacked], check=True)
    # Its links are made by PostgreSQL when it starts.
    assert list((unpacked / "pg_tblspc").iterdir()) == []
    assert files_needed(needed_keys(unpacked, made.keystore)) == dict.fromkeys(wanted, True)

    key = named_key(made.keystore)
    key.rename(os_user_tmp_path / key.name)
    for directory in (made.data_directory, unpacked):
        found = needed_keys(directory, made.keystore)
        assert not found.good
        (missing,) = [key for key in found.keys if key.problem]
        assert missing.file == key.name
        assert str(key) in missing.problem
        assert "tde keystore copy" in missing.remedy


def test_a_map_that_was_altered_or_cut_is_told(made):
    made.cluster.stop()
    path = made.data_directory / KEYMAP_FILE
    good = path.read_bytes()
    for at in range(len(good)):
        changed = bytearray(good)
        changed[at] ^= 1 << at % 8
        path.write_bytes(changed)
        found = needed_keys(made.data_directory, made.keystore)
        assert KEYMAP_FILE in found.problem, at
        assert found.remedy
    # An older map does not know the tablespaces that are there.
    path.write_bytes(good[:64])
    found = needed_keys(made.data_directory, made.keystore)
    assert [key.problem.count("does not say what key") for key in found.keys][-2:] == [1, 1]
    path.unlink()
    assert KEYMAP_FILE in needed_keys(made.data_directory, made.keystore).problem


def test_keystore_of_another_cluster_and_directories_without_one(
    made, keystore_factory, os_user_tmp_path
):
    other = keystore_factory("other")
    found = needed_keys(made.data_directory, other)
    assert f"belongs to the keystore {made.keystore.uuid.hex}" in found.problem
    assert str(made.keystore.path) in found.remedy
    found = needed_keys(os_user_tmp_path / "own", made.keystore)
    assert "has no tde.json" in found.problem


def test_a_dropped_tablespace_needs_no_key_of_its_own(made, os_user_tmp_path):
    made.query("DROP TABLESPACE own")
    key = named_key(made.keystore)
    assert needed_keys(made.data_directory, made.keystore).good
    key.unlink()
    found = needed_keys(made.data_directory, made.keystore)
    assert found.good
    assert [key.use for key in found.keys if "not here" in key.use]


def test_a_cluster_of_a_release_before_the_key_map(
    any_binaries, encrypted_cluster_factory, os_user_tmp_path
):
    made = encrypted_cluster_factory(any_binaries)
    location = make_directory(made, os_user_tmp_path / "space")
    made.query(f"CREATE TABLESPACE space LOCATION '{location}'")
    oid = made.query("SELECT oid FROM pg_tablespace WHERE spcname = 'space'")[0][0]
    made.cluster.stop()
    (file,) = made.keystore.create_key(KeyOwner.tablespace(oid), Algorithm.AES128)
    entries = [MapEntry(oid, KeySource.RECORD)]
    write_map(made.data_directory, entries, made.keystore, made.cluster.os_user)
    made.start()
    made.query("CREATE TABLE t TABLESPACE space AS SELECT 1 AS x")
    made.cluster.stop()
    (made.data_directory / KEYMAP_FILE).unlink()
    replace(made.cluster.marker, has_map=False).write(made.data_directory, made.cluster.os_user)

    assert file.name in files_needed(needed_keys(made.data_directory, made.keystore))
    assert needed_keys(made.data_directory, made.keystore).good
    file.unlink()
    found = needed_keys(made.data_directory, made.keystore)
    (missing,) = [key for key in found.keys if key.problem]
    assert missing.file == file.name
    assert "have a key of their own" in missing.problem
    # Looking has decided nothing.
    assert not (made.data_directory / KEYMAP_FILE).exists()


def test_accepted_lines_are_verified_too(made):
    made.cluster.stop()
    configure(made, ["archive_command = 'true'"])
    accepted_lines.accept_lines(made.data_directory, made.keystore, [])
    record = accepted_lines.record_file(made.keystore.path, made.data_directory)
    assert all(file.good for file in check_keystore_files(made.keystore.path, made.keystore))
    good = record.read_bytes()
    for at in range(len(good)):
        changed = bytearray(good)
        changed[at] ^= 1 << at % 8
        record.write_bytes(changed)
        found = check_keystore_files(made.keystore.path, made.keystore)
        assert [file.file for file in found if not file.good] == [record], at


def test_the_command_says_what_is_missing(made, os_user_tmp_path):
    secret = os_user_tmp_path / "passphrase"
    secret.write_bytes(PASSPHRASE)
    secret.chmod(0o600)
    arguments = ["keystore", "verify", "-k", str(made.keystore.path), "--passphrase-file"]
    arguments += [str(secret), "--backup", str(made.data_directory)]
    shown = runner.invoke(app, arguments)
    assert shown.exit_code == 0, shown.output
    assert "All its keys are here." in shown.stdout
    key = named_key(made.keystore)
    key.unlink()
    shown = runner.invoke(app, arguments)
    assert shown.exit_code == 1, shown.output
    assert f"{key} does not exist" in shown.stdout
    document = json.loads(runner.invoke(app, [*arguments, "--json"]).stdout)
    assert not document["good"]
    (backup,) = document["backups"]
    assert [k["file"] for k in backup["keys"] if not k["here"]] == [f"keys/{key.name}"]
    assert Path(backup["directory"]) == made.data_directory
