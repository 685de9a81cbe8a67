"""Wrong, missing and damaged keys: a typed error with a remedy, before anything is started."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tde.errors import (
    ClusterKeystoreError,
    DataDirectoryError,
    InterposerError,
    KeystoreClosedError,
    KeystoreDamagedError,
    KeystoreError,
    ProgramError,
    TdeError,
    UnsupportedServerError,
)
from tde.keystore import KeyOwner, inspect_keystore
from tde.ownership import create_directory
from tde.postgres import Cluster
from tde.postgres.cluster import initialize
from tde.postgres.cluster.marker import Marker
from tde.postgres.facts import PG_GLOBAL_OID
from tde.postgres.server import interposer, launch, reachable
from tde.postgres.server.interposer import GUARD_FILE


@pytest.fixture(scope="module")
def shared(any_binaries, module_cluster_factory):
    """An encrypted cluster that does not run; tests put back what they break."""
    return module_cluster_factory(any_binaries, start=False)


def expect_refusal(made, error: type[TdeError], match: str, keystore=None) -> None:
    with pytest.raises(error, match=match) as caught:
        made.cluster.start(keystore or made.keystore)
    assert caught.value.remedy
    assert made.cluster.pid is None
    assert not made.cluster.default_log.exists()


def test_a_start_without_the_keystore_is_refused(shared):
    with pytest.raises(ClusterKeystoreError, match="is encrypted and needs its keystore") as caught:
        shared.cluster.start(None)
    assert str(shared.keystore.path) in caught.value.remedy


def test_a_start_with_another_keystore_is_refused(shared, keystore_factory):
    expect_refusal(shared, ClusterKeystoreError, "does not belong", keystore_factory("other"))


def test_a_keystore_for_a_plain_cluster_is_refused(
    any_binaries, encrypted_cluster_factory, keystore_factory
):
    plain = encrypted_cluster_factory.plain(any_binaries, start=False)
    expect_refusal(plain, ClusterKeystoreError, "not encrypted", keystore_factory("unneeded"))


@pytest.mark.parametrize("owner", [KeyOwner.wal(), KeyOwner.tablespace(PG_GLOBAL_OID)], ids=str)
def test_a_missing_key_is_named(shared, owner):
    file = shared.keystore.path / "keys" / owner.file_name
    content = file.read_bytes()
    file.unlink()
    try:
        expect_refusal(shared, ClusterKeystoreError, "has no key for")
    finally:
        _restore(shared, file, content)


@pytest.mark.parametrize("position", [9, 40, 70, 130])
def test_an_altered_key_is_refused(shared, position):
    file = shared.keystore.path / "keys" / KeyOwner.wal().file_name
    content = file.read_bytes()
    altered = bytearray(content)
    altered[position] ^= 1
    file.write_bytes(altered)
    try:
        expect_refusal(shared, KeystoreDamagedError, str(file))
    finally:
        _restore(shared, file, content)


def _restore(made, file: Path, content: bytes) -> None:
    owner = made.keystore.path.stat()
    file.write_bytes(content)
    file.chmod(0o600)
    os.chown(file, owner.st_uid, owner.st_gid)


def test_a_closed_keystore_is_refused(any_binaries, encrypted_cluster_factory):
    made = encrypted_cluster_factory(any_binaries, start=False)
    made.keystore.close()
    expect_refusal(made, KeystoreClosedError, "the keystore is not open")


def test_restart_with_another_keystore_keeps_the_server(
    any_binaries, encrypted_cluster_factory, keystore_factory
):
    made = encrypted_cluster_factory(any_binaries)
    pid = made.cluster.pid
    with pytest.raises(ClusterKeystoreError):
        made.cluster.restart(keystore_factory("other"))
    assert made.cluster.pid == pid


def test_a_damaged_marker_is_refused(any_binaries, encrypted_cluster_factory):
    made = encrypted_cluster_factory(any_binaries, start=False)
    (made.data_directory / "tde.json").write_text("{}")
    expect_refusal(made, DataDirectoryError, "tde.json")


def test_a_start_without_an_installed_interposer_is_refused(shared, monkeypatch):
    monkeypatch.setattr(interposer, "INTERPOSER_NAME", "libtde_missing.so")
    expect_refusal(shared, InterposerError, "not installed")


def test_a_start_with_an_interposer_that_does_not_load_is_refused(
    shared, monkeypatch, os_user_tmp_path
):
    # The loader only warns about a preload that it cannot use; the guard file then stops
    # the server.
    useless = os_user_tmp_path / "libtde_io.so"
    useless.write_bytes(b"not a library")
    useless.chmod(0o644)
    monkeypatch.setattr(reachable, "find_interposer", lambda: useless)
    expect_refusal(shared, InterposerError, "tde-start-this-cluster-with-tde-pg-start.conf")
    with pytest.raises(InterposerError, match="cannot be preloaded") as caught:
        shared.cluster.start(shared.keystore)
    assert "Do not create the file" in caught.value.remedy


def test_server_without_interposer_is_stopped_again(shared, monkeypatch):
    monkeypatch.setattr(launch, "is_interposed", lambda pid: False)
    with pytest.raises(InterposerError, match="stopped again") as caught:
        shared.cluster.start(shared.keystore, options={"listen_addresses": ""})
    assert "LD_PRELOAD" in caught.value.remedy
    assert shared.cluster.pid is None
    shared.cluster.default_log.unlink()


def test_init_refuses_a_used_keystore(shared, any_binaries, os_user_tmp_path):
    cluster = Cluster(os_user_tmp_path / "second", any_binaries)
    with pytest.raises(ClusterKeystoreError, match="already has keys"):
        cluster.init(keystore=shared.keystore)
    assert not cluster.data_directory.exists()


def test_init_refuses_a_directory_with_content(any_binaries, os_user_tmp_path, keystore_factory):
    directory = os_user_tmp_path / "data"
    directory.mkdir()
    (directory / "lost+found").touch()
    keystore = keystore_factory()
    with pytest.raises(DataDirectoryError, match="is not empty"):
        Cluster(directory, any_binaries).init(keystore=keystore)
    assert inspect_keystore(keystore.path).keys == []


@pytest.mark.parametrize(("data", "keys"), [("a", "a/keys"), ("b/data", "b")])
def test_init_refuses_overlapping_places(
    any_binaries, os_user, os_user_tmp_path, keystore_factory, data, keys
):
    parent = (os_user_tmp_path / keys).parent
    if parent != os_user_tmp_path:
        create_directory(parent, None if os_user is None else os_user.owner)
    keystore = keystore_factory(keys)
    cluster = Cluster(os_user_tmp_path / data, any_binaries)
    with pytest.raises(TdeError, match=r"overlap|not empty"):
        cluster.init(keystore=keystore)


def test_failed_init_leaves_nothing(any_binaries, os_user_tmp_path, keystore_factory):
    keystore = keystore_factory()
    cluster = Cluster(os_user_tmp_path / "data", any_binaries)
    with pytest.raises(ProgramError, match="initdb failed"):
        cluster.init(keystore=keystore, initdb_args=["--locale=no_SUCH.locale"])
    assert not cluster.data_directory.exists()
    assert inspect_keystore(keystore.path).keys == []
    cluster.init(keystore=keystore, initdb_args=["--no-sync"])  # The keystore is as good as new.


def test_status_tells_about_a_missing_keystore(any_binaries, encrypted_cluster_factory):
    made = encrypted_cluster_factory(any_binaries, start=False)
    made.keystore.path.rename(made.keystore.path.with_name("moved"))
    status = made.cluster.status()
    assert "no keystore" in status.keystore_problem
    moved = made.cluster.status(made.keystore.path.with_name("moved"))
    assert moved.keystore_problem == ""
    assert "WAL" in moved.protections


def test_errors_of_the_keystore_share_an_exit_code():
    assert ClusterKeystoreError.exit_code == KeystoreError.exit_code


def test_of_two_inits_with_one_keystore_one_is_refused(
    any_binaries, os_user_tmp_path, keystore_factory, monkeypatch
):
    # The second init passes the check for an unused keystore before the first writes its keys.
    monkeypatch.setattr(initialize, "require_unused_keystore", lambda keystore: None)
    keystore = keystore_factory()
    first, second = (Cluster(os_user_tmp_path / name, any_binaries) for name in "ab")
    first.init(keystore=keystore, initdb_args=["--no-sync"])
    before = inspect_keystore(keystore.path).keys
    with pytest.raises(ClusterKeystoreError, match="already has keys"):
        second.init(keystore=keystore, initdb_args=["--no-sync"])
    assert not second.data_directory.exists()
    assert inspect_keystore(keystore.path).keys == before


def test_init_that_loses_its_keys_is_no_success(
    any_binaries, os_user_tmp_path, keystore_factory, monkeypatch
):
    keystore = keystore_factory()

    def lose_a_key(*_: object) -> None:
        (keystore.path / "keys" / KeyOwner.wal().file_name).unlink()

    monkeypatch.setattr(initialize, "add_guard", lose_a_key)
    cluster = Cluster(os_user_tmp_path / "data", any_binaries)
    with pytest.raises(ClusterKeystoreError, match="has no key for the WAL"):
        cluster.init(keystore=keystore, initdb_args=["--no-sync"])


def test_a_start_without_the_key_of_other_tablespaces_is_refused(
    binaries, encrypted_cluster_factory
):
    """Tables in tablespaces made with SQL would fail one by one, at their first use."""
    made = encrypted_cluster_factory(binaries, start=False)
    record = made.keystore.path / "keys" / KeyOwner.other_tablespaces().file_name
    record.unlink()
    with pytest.raises(ClusterKeystoreError, match="no key for tablespaces without a key"):
        made.start()
    assert made.cluster.pid is None


def test_shared_memory_in_files_is_refused(binaries, encrypted_cluster_factory):
    made = encrypted_cluster_factory(binaries, start=False)
    with pytest.raises(UnsupportedServerError, match="pg_dynshmem") as caught:
        made.start({"dynamic_shared_memory_type": "mmap"})
    assert "posix" in caught.value.remedy
    assert made.cluster.pid is None
    with (made.data_directory / "postgresql.auto.conf").open("a") as file:
        file.write("dynamic_shared_memory_type = mmap\n")
    with pytest.raises(UnsupportedServerError):
        made.start()


def test_an_interrupted_init_leaves_a_cluster_that_says_what_it_is(
    any_binaries, encrypted_cluster_factory, monkeypatch
):
    with monkeypatch.context() as patch:
        # Ctrl-C comes between initdb and the marker, so the first attempt to write it fails.
        write, calls = Marker.write, []

        def write_second_time(marker: Marker, *arguments: object) -> None:
            calls.append(marker)
            if len(calls) == 1:
                raise KeyboardInterrupt
            write(marker, *arguments)

        patch.setattr(Marker, "write", write_second_time)
        keystore = encrypted_cluster_factory.keystore()
        cluster = encrypted_cluster_factory.track(
            Cluster(encrypted_cluster_factory.directory / "data", any_binaries)
        )
        with pytest.raises(KeyboardInterrupt):
            cluster.init(keystore=keystore, initdb_args=["--no-sync"])
    assert cluster.marker is not None
    assert cluster.marker.keystore_uuid == keystore.uuid
    configuration = (cluster.data_directory / "postgresql.conf").read_text()
    assert configuration.count(f"include {GUARD_FILE}") == 1
    cluster.start(keystore, options={"listen_addresses": ""})
    assert cluster.status().interposed is True
