"""What root finds of the passphrase in the memory of a server that was started with it."""

from __future__ import annotations

import os
import subprocess
import sys

import psutil
import pytest

from tests.keystore.cheap_passphrase import PASSPHRASE
from tests.keystore.test_no_passphrase_in_memory import SEARCHER

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root may look at the memory")


def test_no_process_of_a_server_has_it(
    any_binaries, encrypted_cluster_factory, tde_command, tmp_path
):
    made = encrypted_cluster_factory(any_binaries, start=False)
    needle = tmp_path / "needle"
    needle.write_bytes(PASSPHRASE)
    bindir = ("--bindir", any_binaries.bindir)
    options = ("-o", "-c listen_addresses=")
    tde_command("pg", "start", "-D", made.data_directory, *bindir, *options, "--passphrase-fd", "0")
    made.query("CREATE TABLE t AS SELECT 1")
    postmaster = psutil.Process(made.cluster.pid)
    processes = [postmaster, *postmaster.children(recursive=True)]
    searched = 0
    for process in processes:
        words = [sys.executable, "-c", SEARCHER, str(process.pid), str(needle)]
        found = subprocess.run(words, capture_output=True, text=True)
        if found.returncode != 0:
            # A session, or a worker of autovacuum, has ended meanwhile; nothing else may fail.
            _, alive = psutil.wait_procs([process], timeout=60)
            assert not alive, found.stderr
            continue
        assert found.stdout == "found 0 times\n", process.cmdline()
        searched += 1
    assert searched > 4
