"""A server whose provider goes away: it never asks again, and a restart is bridged if allowed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.keystore.test_provider_outages import kernel_keeps_keys
from tests.keystore.third_party import Xor, install

OPTIONS = "-c listen_addresses='' -c fsync=off -c shared_buffers=16MB"


def test_a_server_goes_on_and_its_restart_is_bridged(
    encrypted_cluster_factory, any_binaries, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(place / "site")
    monkeypatch.syspath_prepend(str(place / "site"))
    xor = Xor(place / "xor")
    made = encrypted_cluster_factory(any_binaries, start=False)
    data, keystore = made.cluster.data_directory, made.keystore
    bridged = kernel_keeps_keys(keystore)
    xor.add(keystore, unattended=True, cache_seconds=600)
    environment = {**os.environ, "PYTHONPATH": str(place / "site")}

    def tde(*arguments: object, exit_code: int = 0) -> str:
        result = subprocess.run(
            [Path(sys.executable).with_name("tde"), *map(str, arguments)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            env=environment,
            start_new_session=True,
            timeout=120,
        )
        assert result.returncode == exit_code, result.stdout + result.stderr
        return result.stderr

    try:
        tde("pg", "start", "-D", data, "-o", OPTIONS)
        asked = len(xor.asked)
        assert set(xor.asked) == {data.stat().st_uid}
        xor.behave("away")
        query = ("psql", "-D", data, "--", "-d", "postgres", "-Atc")
        tde(*query, "CREATE TABLE t AS SELECT 1 AS a; CHECKPOINT; SELECT pg_switch_wal()")
        assert len(xor.asked) == asked
        tde("pg", "stop", "-D", data)
        if bridged:
            shown = tde("pg", "start", "-D", data, "-o", OPTIONS)
            assert "the key that the kernel keeps for that is used" in shown
            tde(*query, "SELECT a FROM t")
            tde("pg", "stop", "-D", data)
        xor.behave("refuse")
        shown = tde("pg", "start", "-D", data, "-o", OPTIONS, exit_code=5)
        assert "does not open by itself: provider xor (xor): it will not" in shown
    finally:
        tde("keystore", "provider", "remove", "xor", "-k", keystore.path)
