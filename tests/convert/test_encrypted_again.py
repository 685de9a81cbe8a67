"""A cluster that was encrypted before, with tablespaces whose locations name the keys of then."""

from __future__ import annotations

import pytest

from tde import Algorithm
from tde.postgres import Scope, audit, create_tablespace, decrypt_cluster, encrypt_cluster
from tests.postgres.canaries import CANARY, files_with, settle
from tests.postgres.cluster_copies import base_backup, open_copy


@pytest.mark.parametrize("scope", list(Scope))
def test_a_decrypted_cluster_with_tablespaces_is_encrypted_again(
    scope, encrypted_cluster_factory, any_binaries, os_user_tmp_path
):
    made = encrypted_cluster_factory(any_binaries, scope=Scope.CLUSTER)
    space = os_user_tmp_path / "space"
    create_tablespace(made.cluster, made.keystore, "secret", space, Algorithm.AES128)
    made.query(f"CREATE TABLE t TABLESPACE secret AS SELECT '{CANARY.decode()}' AS x")
    made.cluster.stop()
    decrypt_cluster(made.cluster, made.keystore)
    assert files_with(CANARY, space) != []

    made.keystore = encrypted_cluster_factory.keystore("new-keystore")
    named = ["secret"] if scope is Scope.TABLESPACES else None
    encrypt_cluster(made.cluster, made.keystore, scope=scope, tablespaces=named)
    assert files_with(CANARY, space) == []
    for _ in range(2):
        made.start()
        assert made.query("TABLE t") == [(CANARY.decode(),)]
        made.query("INSERT INTO t TABLE t LIMIT 1")
        made.query("DELETE FROM t WHERE ctid <> '(0,1)'")
        settle(made)
        assert audit(made.cluster, made.keystore).findings == ()
        made.cluster.stop()
    made.start()
    another = os_user_tmp_path / "another"
    create_tablespace(made.cluster, made.keystore, "another", another, Algorithm.AES256)
    made.query("ALTER TABLE t SET TABLESPACE another")
    made.query("ALTER TABLE t SET TABLESPACE secret")
    backup = os_user_tmp_path / "backup"
    mappings = [
        f"--tablespace-mapping={link.readlink()}={backup}-{link.name}"
        for link in (made.data_directory / "pg_tblspc").iterdir()
    ]
    base_backup(made, backup, *mappings)
    made.cluster.stop()
    copy = open_copy(encrypted_cluster_factory, made, backup, made.keystore)
    copy.start()
    assert copy.query("SELECT DISTINCT x FROM t") == [(CANARY.decode(),)]
