"""The keys that a cluster needs: made once, never taken from another cluster."""

from __future__ import annotations

from pathlib import Path

import pytest

from tde.algorithms import Algorithm
from tde.errors import ClusterKeystoreError, KeystoreDamagedError
from tde.keystore import KdfParameters, KeyOwner, Keystore, inspect_keystore
from tde.postgres import Scope
from tde.postgres.cluster.keys import create_initial_keys, require_cluster_keys

CHEAP = KdfParameters(memory_kib=8192, iterations=1, lanes=1)
PASSPHRASE = b"a passphrase for tests"


@pytest.fixture
def keystore(tmp_path: Path) -> Keystore:
    return Keystore.create(tmp_path / "ks", PASSPHRASE, kdf=CHEAP)


def records(keystore: Keystore) -> dict[str, bytes]:
    return {key.file.name: key.file.read_bytes() for key in inspect_keystore(keystore.path).keys}


def test_a_second_cluster_leaves_the_keys_of_the_first(keystore):
    create_initial_keys(keystore, Scope.CLUSTER, Algorithm.AES256)
    before = records(keystore)
    assert set(before) == {"wal.key", "other.key", "1663.key", "1664.key"}
    with (
        Keystore.open(keystore.path, PASSPHRASE) as second,
        pytest.raises(ClusterKeystoreError, match="already has keys"),
    ):
        create_initial_keys(second, Scope.CLUSTER, Algorithm.AES256)
    assert records(keystore) == before


def test_only_own_records_are_rolled_back(keystore):
    created = create_initial_keys(keystore, Scope.CLUSTER, Algorithm.AES256)
    replaced = keystore.path / "keys" / KeyOwner.wal().file_name
    replaced.unlink()
    keystore.create_key(KeyOwner.wal(), Algorithm.AES256)
    keystore.create_key(KeyOwner.tablespace(16400), Algorithm.AES128)
    before = records(keystore)
    keystore.discard_records(created)
    assert records(keystore) == {name: before[name] for name in ("wal.key", "16400.key")}


def test_a_failed_write_leaves_no_records(keystore, monkeypatch):
    from tde.keystore import keystore as directory

    write = directory.write_atomically

    def fail_on_the_second(path: Path, data: bytes) -> None:
        if path.name != "wal.key":
            raise KeyboardInterrupt
        write(path, data)

    monkeypatch.setattr(directory, "write_atomically", fail_on_the_second)
    with pytest.raises(KeyboardInterrupt):
        create_initial_keys(keystore, Scope.CLUSTER, Algorithm.AES256)
    assert records(keystore) == {}


def damage(keystore: Keystore, owner: KeyOwner) -> None:
    file = keystore.path / "keys" / owner.file_name
    file.write_bytes(file.read_bytes()[:-1])


def test_a_damaged_record_of_a_dropped_tablespace_is_a_warning(keystore, tmp_path, caplog):
    (tmp_path / "pg_tblspc").mkdir()
    create_initial_keys(keystore, Scope.CLUSTER, Algorithm.AES256)
    keystore.create_key(KeyOwner.tablespace(16400), Algorithm.AES128)
    damage(keystore, KeyOwner.tablespace(16400))
    require_cluster_keys(keystore, tmp_path)
    assert "16400.key" in caplog.text
    (tmp_path / "pg_tblspc" / "16400").symlink_to(tmp_path)
    with pytest.raises(KeystoreDamagedError, match=r"16400\.key"):
        require_cluster_keys(keystore, tmp_path)


def test_a_damaged_record_that_every_cluster_needs_is_refused(keystore, tmp_path):
    (tmp_path / "pg_tblspc").mkdir()
    create_initial_keys(keystore, Scope.TABLESPACES, Algorithm.AES256)
    damage(keystore, KeyOwner.tablespace(1663))
    with pytest.raises(KeystoreDamagedError, match=r"1663\.key"):
        require_cluster_keys(keystore, tmp_path)
