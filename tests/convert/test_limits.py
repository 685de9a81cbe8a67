"""Limits of the process: on open files, and on memory for what was found."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tde.convert.plan import PlannedFile
from tde.convert.stock_checksums import Changes
from tde.postgres import Cluster, encrypt_cluster
from tests.convert.conversions import content, encrypted_form, without_ours
from tests.convert.interruptions import die_in_write, run_until
from tests.keystore.cheap_passphrase import PASSPHRASE


def limited(soft: int, hard: int) -> Callable[[], None]:
    return lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def convert(
    verb: str, cluster: Cluster, keystore: Path, limit: Callable[[], None]
) -> subprocess.CompletedProcess[bytes]:
    """Run ``tde pg encrypt`` or ``decrypt`` under a limit on open files."""
    program = Path(sys.executable).with_name("tde")
    named = ["pg", verb, cluster.data_directory, "-k", keystore, "--passphrase-fd", "0", "-j", "2"]
    return subprocess.run(
        [program, *named], input=PASSPHRASE, capture_output=True, preexec_fn=limit, timeout=300
    )


def test_more_files_than_a_process_may_have_open(original, copy, keystore_factory):
    """A batch of 16 MiB may be of 2,048 files; all were open at once, and no run got further."""
    before = content(copy.data_directory)
    keystore = keystore_factory()
    assert len(before) > 500
    # The usual limits are 1,024 and more, the usual clusters have more files.
    run = convert("encrypt", copy, keystore.path, limited(128, 128))
    assert run.returncode == 0, run.stderr
    assert without_ours(content(copy.data_directory)) == without_ours(
        encrypted_form(before, keystore)
    )
    run = convert("decrypt", copy, keystore.path, limited(128, 128))
    assert run.returncode == 0, run.stderr
    assert content(copy.data_directory) == before


def test_more_interrupted_runs_than_a_process_may_have_files_open(original, copy, keystore_factory):
    """Each leaves files of records, which the next one had open until it ended."""
    before = content(copy.data_directory)
    keystore = keystore_factory()
    assert run_until(die_in_write(60, 5), lambda: encrypt_cluster(copy, keystore, jobs=1))
    journal = copy.data_directory / "tde_convert"
    record = (journal / "blocks-1-0-0").read_bytes()
    owner = journal.stat()
    for number in range(2, 200):
        path = journal / f"blocks-{number}-0-0"
        path.write_bytes(record)
        os.chown(path, owner.st_uid, owner.st_gid)
    run = convert("encrypt", copy, keystore.path, limited(128, 128))
    assert run.returncode == 0, run.stderr
    assert without_ours(content(copy.data_directory)) == without_ours(
        encrypted_form(before, keystore)
    )


def test_a_limit_that_is_too_low_is_raised_or_told_before_anything_is_changed(
    original, copy, keystore_factory
):
    before = content(copy.data_directory)
    keystore = keystore_factory()
    run = convert("encrypt", copy, keystore.path, limited(36, 36))
    assert run.returncode == 1
    assert b"a process may have 36 files open" in b" ".join(run.stderr.split())
    assert b"No file of the cluster has been changed" in b" ".join(run.stderr.split())
    assert content(copy.data_directory) == before
    run = convert("encrypt", copy, keystore.path, limited(36, 128))
    assert run.returncode == 0, run.stderr


@pytest.mark.parametrize("pages", [131_072])
def test_a_repair_holds_a_few_bytes_for_each_page(pages):
    """Of 1 TiB these are less than 1 GiB; objects were 22."""
    changes = Changes(PlannedFile("base/5/1259", pages * 8192))
    for block in range(pages):
        changes.add(block, block.to_bytes(4, "little")[:2])
    assert sys.getsizeof(changes.blocks) + sys.getsizeof(changes.values) < 8 * pages
    assert list(changes)[70_000] == (70_000, (70_000).to_bytes(4, "little")[:2])
