"""Conversions that end in the middle, at any moment: the next run finishes them, bit by bit."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tde.convert import journal
from tde.doctor import Group, Verdict
from tde.errors import ClusterKeystoreError, ConversionError, ServerStartError
from tde.keystore import Keystore
from tde.postgres import Cluster, audit, decrypt_cluster, doctor, encrypt_cluster, run_program
from tde.postgres.cluster.unfinished_conversion import MOVED_CONTROL
from tests.convert.conversions import content, encrypted_form, without_ours
from tests.convert.deaths import die_at_sync, die_in_write, run_until
from tests.keystore.cheap_passphrase import PASSPHRASE


def no_server_starts(cluster: Cluster, keystore: Keystore) -> None:
    """Check that neither a stock nor an interposed server, nor pg_resetwal, touches a mixture."""
    before = content(cluster.data_directory)
    for keys in (None, keystore):
        with pytest.raises((ConversionError, ClusterKeystoreError, ServerStartError)) as caught:
            cluster.start(keys, options={"listen_addresses": ""}, timeout=10)
        if keys is None:
            assert "interrupted" in str(caught.value)
            assert "tde pg encrypt" in caught.value.remedy
    for program, arguments in (
        ("postgres", ["-D", str(cluster.data_directory)]),
        ("pg_resetwal", ["-f", "-D", str(cluster.data_directory)]),
    ):
        run = run_program(cluster.binaries, program, arguments, os_user=cluster.os_user, timeout=30)
        assert run.returncode != 0
        assert "pg_control" in run.stderr
    assert content(cluster.data_directory) == before


def test_a_conversion_that_dies_at_any_step_is_finished(original, copy, keystore_factory):
    """Each run dies a little later than the one before; blocks are torn in between."""
    before = content(copy.data_directory)
    keystore = keystore_factory()

    def is_done(encrypted: bool) -> bool:
        journal_is_gone = not (copy.data_directory / "tde_convert").exists()
        return journal_is_gone and (copy.marker is not None) is encrypted

    def encrypt() -> None:
        if not is_done(True):  # Else it would say so, as an error.
            encrypt_cluster(copy, keystore, jobs=2)

    def decrypt() -> None:
        if not is_done(False):
            decrypt_cluster(copy, keystore, jobs=2)

    points = [
        *(die_at_sync(number) for number in (*range(0, 24, 3), 60)),
        *(die_in_write(number * 3, number) for number in range(4)),
        *(die_at_sync(number, of_finish=True) for number in range(20)),
    ]
    for convert in (encrypt, decrypt):
        for number, point in enumerate(points):
            if number == 13:
                assert (copy.data_directory / MOVED_CONTROL).exists()
                if convert is encrypt:
                    no_server_starts(copy, keystore)
            if not run_until(point, convert):
                break
        # The last points are those where only the journal is left to remove.
        assert len(points) - 15 <= number < len(points)
        found = without_ours(content(copy.data_directory))
        wanted = encrypted_form(before, keystore) if convert is encrypt else before
        assert found == without_ours(wanted)
    assert content(copy.data_directory) == before


def test_journal_files_that_are_not_needed_go(original, copy, keystore_factory, monkeypatch):
    """With a new journal file for every batch, those of finished files are removed on the way."""
    monkeypatch.setattr(journal, "ROTATE_BYTES", 0)
    before = content(copy.data_directory)
    keystore = keystore_factory()
    for number in range(3):
        convert = lambda: encrypt_cluster(copy, keystore, jobs=3)  # noqa: E731
        assert run_until(die_in_write(150 + number, number), convert)
    encrypt_cluster(copy, keystore)
    assert without_ours(content(copy.data_directory)) == without_ours(
        encrypted_form(before, keystore)
    )


def test_every_command_says_what_is_unfinished(original, copy, keystore_factory):
    """What they said instead tempted to repair pg_control."""
    keystore = keystore_factory()
    for convert, verb in ((encrypt_cluster, "encrypt"), (decrypt_cluster, "decrypt")):
        assert run_until(die_in_write(60, 1), lambda convert=convert: convert(copy, keystore))
        for look in (copy.status, lambda: audit(copy, keystore)):
            with pytest.raises(ConversionError, match=f"tde pg {verb} was interrupted") as caught:
                look()
            assert f"tde pg {verb} -D" in caught.value.remedy
        report = doctor(copy.data_directory, copy.binaries, groups=[Group.CLUSTER])
        found = next(finding for finding in report.findings if finding.check == "encryption")
        assert (found.verdict, found.remedy) == (Verdict.PROBLEM, caught.value.remedy)
        tde = str(Path(sys.executable).with_name("tde"))
        keys = ["-D", str(copy.data_directory), "-k", str(keystore.path), "--passphrase-fd", "0"]
        for words in (["audit", *keys], ["exec", *keys, "pg_waldump", "--version"]):
            run = subprocess.run([tde, "pg", *words], input=PASSPHRASE, capture_output=True)
            assert f"tde pg {verb} was interrupted" in run.stderr.decode()
        convert(copy, keystore)


def test_a_read_only_file_in_the_middle_stops_a_conversion_that_goes_on_later(
    original, copy, keystore_factory
):
    before = content(copy.data_directory)
    keystore = keystore_factory()
    assert run_until(die_at_sync(60), lambda: encrypt_cluster(copy, keystore))
    path = copy.data_directory / "base/5/1259"
    path.chmod(0o400)
    with pytest.raises(ConversionError, match=r"1259: Permission denied") as caught:
        encrypt_cluster(copy, keystore)
    assert "Nothing is lost" in caught.value.remedy
    path.chmod(0o600)
    assert encrypt_cluster(copy, keystore).resumed
    assert without_ours(content(copy.data_directory)) == without_ours(
        encrypted_form(before, keystore)
    )


def test_a_conversion_on_a_full_disk_goes_on_later(original, copy, keystore_factory):
    """The journal's directory is made a small file system of its own."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a file system")
    before = content(copy.data_directory)
    keystore = keystore_factory()
    assert run_until(die_at_sync(9), lambda: encrypt_cluster(copy, keystore))
    directory = copy.data_directory / "tde_convert"
    kept = {path.name: path.read_bytes() for path in directory.iterdir()}
    owner = directory.stat()
    options = f"size=320k,uid={owner.st_uid},gid={owner.st_gid},mode=700"
    mount = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(directory)]
    if subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("this user cannot mount a file system")
    try:
        for name, data in kept.items():
            (directory / name).write_bytes(data)
            os.chown(directory / name, owner.st_uid, owner.st_gid)
        for _ in range(2):
            with pytest.raises(ConversionError, match="No space left on device") as caught:
                encrypt_cluster(copy, keystore)
            assert "Nothing is lost" in caught.value.remedy
        changed = without_ours(content(copy.data_directory))
        assert changed != {name: before.get(name) for name in changed}
        remount = ["mount", "-o", "remount,size=16m", str(directory)]
        subprocess.run(remount, check=True)
        with pytest.raises(ConversionError, match="busy"):  # A mount point cannot be removed.
            encrypt_cluster(copy, keystore)
    finally:
        subprocess.run(["umount", "--lazy", str(directory)], check=True)
    assert copy.marker is not None
    shutil.rmtree(directory)  # What the mount has hidden.
    assert without_ours(content(copy.data_directory)) == without_ours(
        encrypted_form(before, keystore)
    )
