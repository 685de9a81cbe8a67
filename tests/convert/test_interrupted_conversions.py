"""Conversions that end in the middle, at any moment: the next run finishes them, bit by bit."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest

from tde.algorithms import Algorithm
from tde.convert import journal, preparation
from tde.doctor import Group, Verdict
from tde.errors import ClusterKeystoreError, ConversionError, KeyMissingError, ServerStartError
from tde.keystore import KeyOwner, Keystore
from tde.postgres import Cluster, audit, decrypt_cluster, doctor, encrypt_cluster, run_program
from tde.postgres.cluster.unfinished_conversion import MOVED_CONTROL
from tde.postgres.facts import CONTROL_FILE
from tests.convert.conversions import content, encrypted_form, without_ours
from tests.convert.interruptions import die_at_sync, die_in_write, run_until
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


def test_continuing_with_something_else_is_refused(original, copy, keystore_factory):
    keystore, other = keystore_factory("one"), keystore_factory("other")
    assert run_until(die_in_write(20, 1), lambda: encrypt_cluster(copy, keystore))
    with pytest.raises(ClusterKeystoreError, match="begun with the keystore") as caught:
        encrypt_cluster(copy, other)
    assert str(keystore.path) in caught.value.remedy
    with pytest.raises(ConversionError, match="tde pg encrypt was interrupted"):
        decrypt_cluster(copy, keystore)
    from tde.algorithms import Algorithm

    with pytest.raises(ConversionError, match="begun with another algorithm"):
        encrypt_cluster(copy, keystore, algorithm=Algorithm.AES128)
    state = copy.data_directory / "tde_convert" / "state.json"
    whole = state.read_text()
    state.write_text(whole.replace("base/", "bass/", 1))
    with pytest.raises(ConversionError, match="its checksum is wrong"):
        encrypt_cluster(copy, keystore)
    state.rename(state.with_name("away"))
    with pytest.raises(ConversionError, match="is missing"):
        encrypt_cluster(copy, keystore)
    state.with_name("away").rename(state)
    state.write_text(whole)
    # Which changes nothing: they were on before.
    assert encrypt_cluster(copy, keystore, checksums=True).resumed


def test_a_record_that_an_earlier_run_could_not_sync_is_not_relied_on(
    original, copy, keystore_factory
):
    """After the error Linux calls its pages clean, so the next run's sync of it proves nothing.

    The record was only in memory, and is gone after a power cut.
    """
    before = content(copy.data_directory)
    keystore = keystore_factory()
    record = copy.data_directory / "tde_convert/blocks-1-0-0"
    assert run_until(fail_to_sync_records, lambda: refused_encryption(copy, keystore)) is False
    assert record.stat().st_size
    assert run_until(die_in_write(0, 5), lambda: encrypt_cluster(copy, keystore, jobs=1))
    os.truncate(record, 0)
    assert encrypt_cluster(copy, keystore).resumed
    assert without_ours(content(copy.data_directory)) == without_ours(
        encrypted_form(before, keystore)
    )


def refused_encryption(cluster: Cluster, keystore: Keystore) -> None:
    with pytest.raises(ConversionError, match="Input/output error"):
        encrypt_cluster(cluster, keystore, jobs=1)


def fail_to_sync_records() -> None:
    def fail(descriptor: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    os.fdatasync = fail


def test_a_key_that_was_lost_between_the_runs_is_noticed(original, copy, keystore_factory):
    """The files that were converted already need it, so no other is made."""
    keystore = keystore_factory()
    assert run_until(die_in_write(100, 1), lambda: encrypt_cluster(copy, keystore))
    before = content(copy.data_directory)
    record = keystore.path / "keys" / "1663.key"
    record.rename(record.with_name("away"))
    with pytest.raises(KeyMissingError, match=r"keys/1663\.key does not exist") as caught:
        encrypt_cluster(copy, keystore)
    assert "from a backup of the keystore" in caught.value.remedy
    keystore.create_key(KeyOwner.tablespace(1663), Algorithm.AES256)
    with pytest.raises(ClusterKeystoreError, match="other keys than when"):
        encrypt_cluster(copy, keystore)
    assert content(copy.data_directory) == before
    record.with_name("away").rename(record)
    assert encrypt_cluster(copy, keystore).resumed


def test_a_server_that_is_started_in_the_last_moment_is_noticed(
    original, copy, keystore_factory, monkeypatch
):
    before = content(copy.data_directory)
    keystore = keystore_factory()
    make_keys = preparation.create_missing_keys

    def start_and_stop(*arguments: object, **options: object) -> None:
        make_keys(*arguments, **options)
        copy.start(None, options={"listen_addresses": ""})
        copy.stop()

    monkeypatch.setattr(preparation, "create_missing_keys", start_and_stop)
    # tde itself holds the lock of the cluster, so the server is started by other means.
    monkeypatch.setattr("tde.postgres.cluster.cluster.cluster_lock", lambda *_, **__: nullcontext())
    with pytest.raises(ConversionError, match="in the last moments"):
        encrypt_cluster(copy, keystore)
    monkeypatch.undo()
    name = "base/5/1259"
    assert content(copy.data_directory)[name] == before[name]
    encrypt_cluster(copy, keystore)
    copy.start(keystore, options={"listen_addresses": ""})
    copy.stop()


@pytest.mark.parametrize("convert", [encrypt_cluster, decrypt_cluster])
@pytest.mark.parametrize("number", [0, 60])
def test_records_that_were_lost_between_the_runs_are_noticed(
    original, copy, keystore_factory, tmp_path, convert, number
):
    """Blocks without records are taken for untouched, and would be converted twice."""
    plain = content(copy.data_directory)
    keystore = keystore_factory()
    if convert is decrypt_cluster:
        encrypt_cluster(copy, keystore)
    # The first blocks are those of WAL, later ones those of relations. With this seed most sectors
    # are written before the end; a block whose first one is not cannot be told from an old one.
    assert run_until(die_in_write(number, 5), lambda: convert(copy, keystore, jobs=1))
    records = copy.data_directory / "tde_convert"
    lost = [path for path in records.iterdir() if path.name.startswith("blocks-")]
    assert lost
    for path in lost:
        shutil.copy2(path, tmp_path)
        os.truncate(path, 0)
    with pytest.raises(ConversionError, match="is converted already") as caught:
        convert(copy, keystore)
    assert str(records) in str(caught.value)
    for path in lost:
        path.write_bytes((tmp_path / path.name).read_bytes())
    assert convert(copy, keystore).resumed
    expected = plain if convert is decrypt_cluster else encrypted_form(plain, keystore)
    assert without_ours(content(copy.data_directory)) == without_ours(expected)


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


def test_a_name_that_was_given_back_does_not_begin_anew(original, copy, keystore_factory):
    before = content(copy.data_directory)
    keystore = keystore_factory()
    assert run_until(die_in_write(60, 1), lambda: encrypt_cluster(copy, keystore))
    (copy.data_directory / MOVED_CONTROL).rename(copy.data_directory / CONTROL_FILE)
    with pytest.raises(ConversionError, match="pg_control has its name") as caught:
        encrypt_cluster(copy, keystore)
    assert MOVED_CONTROL in caught.value.remedy
    (copy.data_directory / CONTROL_FILE).rename(copy.data_directory / MOVED_CONTROL)
    assert encrypt_cluster(copy, keystore).resumed
    assert without_ours(content(copy.data_directory)) == without_ours(
        encrypted_form(before, keystore)
    )


def test_what_a_process_with_the_same_number_has_left_is_in_nobodys_way(
    original, copy, keystore_factory
):
    """After a power cut numbers begin anew, and in a container each run has the same one."""
    names = ["postgresql.conf", "tde.json", "tde.keymap", "global/pg_control"]
    left = [copy.data_directory / name for name in names]
    left = [path.with_name(f".{path.name}.{os.getpid()}.tmp") for path in left]
    (copy.data_directory / "tde_convert").mkdir()
    left.append(copy.data_directory / f"tde_convert/.state.json.{os.getpid()}.tmp")
    for path in left:
        path.touch()
    shutil.chown(left[-1].parent, copy.data_directory.stat().st_uid)
    keystore = keystore_factory()
    encrypt_cluster(copy, keystore)
    copy.start(keystore, options={"listen_addresses": ""})
    copy.stop()
    decrypt_cluster(copy, keystore)


def test_notes_of_files_without_a_state_are_not_believed(original, copy, keystore_factory):
    """Otherwise files would be passed over, and stay plain in a cluster called encrypted."""
    keystore = keystore_factory()
    assert run_until(die_at_sync(100), lambda: encrypt_cluster(copy, keystore))
    notes = content(copy.data_directory / "tde_convert")
    encrypt_cluster(copy, keystore)
    decrypt_cluster(copy, keystore)
    before = content(copy.data_directory)
    records = copy.data_directory / "tde_convert"
    records.mkdir()
    for name, data in notes.items():
        if name.startswith("done-"):
            (records / name).write_bytes(data)
    fresh = keystore_factory("fresh")
    with pytest.raises(ConversionError, match="says that blocks were converted") as caught:
        encrypt_cluster(copy, fresh)
    assert f"remove {records}" in caught.value.remedy
    shutil.rmtree(records)
    encrypt_cluster(copy, fresh)
    assert without_ours(content(copy.data_directory)) == without_ours(encrypted_form(before, fresh))


def test_files_that_appear_or_vanish_between_the_runs_are_noticed(original, copy, keystore_factory):
    """A relation that was added would stay plain in a cluster called encrypted."""
    before = content(copy.data_directory)
    keystore = keystore_factory()
    assert run_until(die_in_write(60, 1), lambda: encrypt_cluster(copy, keystore))
    relation = "base/5/1259"
    added = copy.data_directory / "base/5/99999"
    added.write_bytes(before[relation])
    with pytest.raises(ConversionError, match="99999 was not there when the conversion began"):
        encrypt_cluster(copy, keystore)
    added.unlink()
    away = copy.data_directory / relation
    away.rename(copy.data_directory.with_name("away"))
    with pytest.raises(ConversionError, match="is missing, but was there") as caught:
        encrypt_cluster(copy, keystore)
    assert relation in str(caught.value)
    copy.data_directory.with_name("away").rename(away)
    assert encrypt_cluster(copy, keystore).resumed
    assert without_ours(content(copy.data_directory)) == without_ours(
        encrypted_form(before, keystore)
    )


def test_a_file_that_changed_between_the_runs_is_noticed(original, copy, keystore_factory):
    before = content(copy.data_directory)
    keystore = keystore_factory()
    assert run_until(die_in_write(0, 2), lambda: encrypt_cluster(copy, keystore, jobs=1))
    changed = {
        name
        for name, data in content(copy.data_directory).items()
        if name in before and data != before[name]
    }
    path = copy.data_directory / changed.pop()
    data = bytearray(path.read_bytes())
    data[300] ^= 0xFF  # Behind the sample of the first sector.
    with path.open("r+b") as file:
        file.write(data)
    with pytest.raises(ConversionError, match="are not what an interrupted conversion leaves"):
        encrypt_cluster(copy, keystore)
    data[300] ^= 0xFF
    with path.open("r+b") as file:
        file.write(data)
    encrypt_cluster(copy, keystore)
    assert without_ours(content(copy.data_directory)) == without_ours(
        encrypted_form(before, keystore)
    )


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
