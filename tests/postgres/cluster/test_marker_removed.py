"""A cluster whose marker was removed looks plain, and must not be run so by mistake."""

from __future__ import annotations

import pytest

from tde.errors import ClusterKeystoreError
from tde.keystore.providers.passphrase_source import PassphraseSource
from tde.postgres.cluster.access import open_cluster_keystore
from tests.keystore.cheap_passphrase import PASSPHRASE


def test_a_passphrase_is_not_passed_over_in_silence(
    any_binaries, encrypted_cluster_factory, tmp_path
):
    """The attack: who may write to the volume removes tde.json, and new rows are plaintext."""
    secret = tmp_path / "passphrase"
    secret.write_bytes(PASSPHRASE)
    secret.chmod(0o600)
    made = encrypted_cluster_factory(any_binaries, start=False)
    made.keystore.close()
    (made.data_directory / "tde.json").unlink()
    with pytest.raises(ClusterKeystoreError, match=r"it has no tde\.json") as refused:
        open_cluster_keystore(made.cluster, None, PassphraseSource(file=secret))
    assert "restore it from a base backup" in (refused.value.remedy or "")
