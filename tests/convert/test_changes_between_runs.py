"""What changes before an interrupted conversion goes on is noticed: nothing is converted twice."""

from __future__ import annotations

import os
import shutil
from contextlib import nullcontext

import pytest

from tde.algorithms import Algorithm
from tde.convert import preparation
from tde.errors import ClusterKeystoreError, ConversionError, KeyMissingError
from tde.keystore import KeyOwner
from tde.postgres import decrypt_cluster, encrypt_cluster
from tde.postgres.cluster.unfinished_conversion import MOVED_CONTROL
from tde.postgres.facts import CONTROL_FILE
from tests.convert.conversions import content, encrypted_form, without_ours
from tests.convert.deaths import die_at_sync, die_in_write, run_until


def test_continuing_with_something_else_is_refused(original, copy, keystore_factory):
    keystore, other = keystore_factory("one"), keystore_factory("other")
    assert run_until(die_in_write(20, 1), lambda: encrypt_cluster(copy, keystore))
    with pytest.raises(ClusterKeystoreError, match="begun with the keystore") as caught:
        encrypt_cluster(copy, other)
    assert str(keystore.path) in caught.value.remedy
    with pytest.raises(ConversionError, match="tde pg encrypt was interrupted"):
        decrypt_cluster(copy, keystore)
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
    assert encrypt_cluster(copy, keystore).resumed


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
    # The first blocks are those of WAL, later ones those of relations.
    assert run_until(die_in_write(number, 1), lambda: convert(copy, keystore, jobs=1))
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
