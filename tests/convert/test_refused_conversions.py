"""Conversions that are refused with a remedy, before anything is changed."""

from __future__ import annotations

import os
import stat

import pytest

from tde.algorithms import Algorithm
from tde.errors import ClusterKeystoreError, ConversionError, NoDataDirectoryError
from tde.keystore import inspect_keystore
from tde.postgres import Scope, decrypt_cluster, encrypt_cluster
from tests.convert.conversions import (
    content,
)


def refuse(copy, keystore, match, error=ConversionError, **arguments):
    """Check that encryption is refused with a remedy and that nothing was changed."""
    before = content(copy.data_directory)
    with pytest.raises(error, match=match) as caught:
        encrypt_cluster(copy, keystore, **arguments)
    assert caught.value.remedy
    assert content(copy.data_directory) == before
    assert inspect_keystore(keystore.path).keys == []


def test_files_that_cannot_be_converted_are_refused(original, copy, keystore_factory):
    directory = copy.data_directory
    keystore = keystore_factory()
    database = next(path for path in (directory / "base").iterdir() if path.name == "5")
    relation = database / "1259"

    with relation.open("ab") as file:
        file.write(b"x" * 100)
    refuse(copy, keystore, "its last 100 are not a whole page")
    os.truncate(relation, relation.stat().st_size - 100)

    (directory / "snapshot").hardlink_to(relation)
    refuse(copy, keystore, r"2 names \(hard links\)")
    (directory / "snapshot").unlink()

    relation.rename(directory / "moved")
    relation.symlink_to(directory / "moved")
    refuse(copy, keystore, "1259 is a link")
    relation.unlink()
    (directory / "moved").rename(relation)

    mode = relation.stat().st_mode
    relation.chmod(0o400)
    refuse(copy, keystore, "cannot open .*1259 for reading and writing: Permission denied")
    relation.chmod(stat.S_IMODE(mode))

    with relation.open("r+b") as file:
        first = file.read(8192)
        file.seek(0)
        file.write(b"no page " * 1024)
    refuse(copy, keystore, "1 of .* files do not begin with a valid plain page: .*1259")
    summary = encrypt_cluster(copy, keystore, allow_invalid_pages=True)
    assert summary.invalid_pages == 1
    assert "block 0 of" in summary.invalid_examples[0]
    decrypt_cluster(copy, keystore, allow_invalid_pages=True)
    with relation.open("r+b") as file:
        assert file.read(8192) != first
        file.seek(0)
        file.write(first)


def test_clusters_that_cannot_be_converted_are_refused(original, copy, keystore_factory, tmp_path):
    directory = copy.data_directory
    keystore = keystore_factory()
    with pytest.raises(NoDataDirectoryError):
        encrypt_cluster(type(copy)(tmp_path / "none", copy.binaries), keystore)
    for name in ("postmaster.pid", "backup_label", "global/pg_control.old"):
        (directory / name).write_text("")
        refuse(copy, keystore, name)
        (directory / name).unlink()
    refuse(
        copy, keystore, "no tablespace with OID 4711", scope=Scope.TABLESPACES, tablespaces=[4711]
    )
    refuse(copy, keystore, "scope cluster encrypts every", tablespaces=[1663])
    wal = directory / "pg_wal"
    wal.rename(wal.parent.with_name("wal"))
    wal.mkdir()
    refuse(copy, keystore, "pg_wal lacks")
    wal.rmdir()
    wal.parent.with_name("wal").rename(wal)
    with pytest.raises(ConversionError, match="is not encrypted"):
        decrypt_cluster(copy, keystore)

    copy.start(None, options={"listen_addresses": "", "fsync": "off"})
    with pytest.raises(ConversionError, match="is running"):
        encrypt_cluster(copy, keystore)
    copy.stop("immediate")
    with pytest.raises(ConversionError, match=r"in production|exists"):
        encrypt_cluster(copy, keystore)
    (directory / "postmaster.pid").unlink(missing_ok=True)
    with pytest.raises(ConversionError, match="not shut down cleanly: its state is in production"):
        encrypt_cluster(copy, keystore)


def test_keystores_that_do_not_fit_are_refused(original, copy, keystore_factory):
    keystore = keystore_factory("good")
    used = keystore_factory("used")
    from tde.postgres.cluster.keys import create_initial_keys

    create_initial_keys(used, Scope.CLUSTER, Algorithm.AES256)
    with pytest.raises(ClusterKeystoreError, match="already has keys"):
        encrypt_cluster(copy, used)
    encrypt_cluster(copy, keystore)
    with pytest.raises(ConversionError, match="encrypted already"):
        encrypt_cluster(copy, keystore_factory("another"))
    with pytest.raises(ClusterKeystoreError, match="does not belong"):
        decrypt_cluster(copy, used)


def test_keys_of_another_cluster_do_not_decrypt(original, copy, keystore_factory):
    """A keystore whose records were lost and made anew must not turn data into noise."""
    from tde.keystore import KeyOwner

    keystore = keystore_factory()
    encrypt_cluster(copy, keystore)
    before = content(copy.data_directory)
    for name in ("1663", "1664"):
        (keystore.path / "keys" / f"{name}.key").unlink()
        keystore.create_key(KeyOwner.tablespace(int(name)), Algorithm.AES256)
    with pytest.raises(ConversionError, match="do not begin with a valid encrypted page"):
        decrypt_cluster(copy, keystore)
    assert content(copy.data_directory) == before
