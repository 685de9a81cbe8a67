"""Whoever may write to the volume can plant an unfinished conversion: it must not be believed."""

from __future__ import annotations

import json
import shutil

import pytest

from tde.convert import runner
from tde.doctor import Group, Verdict
from tde.errors import ConversionError
from tde.postgres import decrypt_cluster, doctor, encrypt_cluster
from tde.postgres.cluster.unfinished_conversion import MOVED_CONTROL
from tde.postgres.facts import CONTROL_FILE
from tests.convert.conversions import content, encrypted_form, without_ours
from tests.convert.forgeries import claim_done, plant_state
from tests.convert.interruptions import die, die_at_sync, die_in_write, run_until

NO_TCP = {"listen_addresses": ""}


def die_before_the_first_block() -> None:
    """Die when pg_control has its other name and no block is converted."""
    runner.read_earlier_runs = lambda *_: die()


def die_before_the_journal_goes() -> None:
    """Die when pg_control has its name again, and only the journal is left."""
    runner.remove_journal = lambda _: die()


def encryption_findings(cluster):
    report = doctor(cluster.data_directory, cluster.binaries, groups=[Group.CLUSTER])
    return [finding for finding in report.findings if finding.check == "encryption"]


def test_what_an_interrupted_encryption_left_does_not_spoil_the_decryption(
    original, copy, keystore_factory, caplog
):
    """tde.keymap was removed with the journal, and the cluster lost for good."""
    keystore = keystore_factory()
    journal = copy.data_directory / "tde_convert"
    assert run_until(die_before_the_journal_goes, lambda: encrypt_cluster(copy, keystore))
    assert (copy.data_directory / CONTROL_FILE).exists()
    assert journal.exists()
    finding = encryption_findings(copy)[0]
    assert finding.verdict is Verdict.WARNING
    assert str(journal) in finding.detail
    copy.start(keystore, options=NO_TCP)
    assert any(str(journal) in record.getMessage() for record in caplog.records)
    copy.stop()
    assert not decrypt_cluster(copy, keystore).resumed
    assert not journal.exists()
    assert len(encryption_findings(copy)) == 1
    copy.start(None, options=NO_TCP)
    copy.stop()


def test_what_an_interrupted_encryption_left_is_named_and_goes_when_it_is_repeated(
    original, copy, keystore_factory, tde_command
):
    keystore = keystore_factory()
    assert copy.status().left_journal == ""
    assert run_until(die_before_the_journal_goes, lambda: encrypt_cluster(copy, keystore))
    shown = tde_command("pg", "status", "-D", copy.data_directory, exit_code=3)
    # Columns are narrow here, and words are taken apart.
    assert "tde_convertisleftofatdepgencrypt" in "".join(shown.stdout.split())
    copy.start(keystore, options=NO_TCP)
    copy.stop()
    before = content(copy.data_directory)
    assert encrypt_cluster(copy, keystore).resumed
    assert content(copy.data_directory) == {
        name: data for name, data in before.items() if not name.startswith("tde_convert/")
    }


def test_what_an_interrupted_decryption_left_needs_the_keystore_by_name(
    original, copy, keystore_factory, tde_command
):
    plain = content(copy.data_directory)
    keystore = keystore_factory()
    encrypt_cluster(copy, keystore)
    assert run_until(die_before_the_journal_goes, lambda: decrypt_cluster(copy, keystore))
    fresh = keystore_factory("fresh")
    with pytest.raises(ConversionError, match="says that blocks were converted") as caught:
        encrypt_cluster(copy, fresh)
    assert "with another keystore" in caught.value.remedy
    secret = ("--passphrase-fd", 0)
    shown = tde_command("pg", "decrypt", copy.data_directory, *secret, exit_code=5)
    assert str(keystore.path) in shown.stderr
    assert "only you know whether that is true" in " ".join(shown.stderr.split())
    tde_command("pg", "decrypt", copy.data_directory, "-k", keystore.path, *secret)
    assert content(copy.data_directory) == plain
    encrypt_cluster(copy, fresh)


def test_a_planted_end_of_decryption_decrypts_nothing_and_removes_nothing(
    original, copy, keystore_factory
):
    keystore = keystore_factory()
    encrypt_cluster(copy, keystore)
    plant_state(copy.data_directory, direction="decrypt", keystore_uuid=keystore.uuid.hex)
    before = content(copy.data_directory)
    with pytest.raises(ConversionError, match="was altered: it does not match the keystore"):
        decrypt_cluster(copy, keystore)
    assert content(copy.data_directory) == before
    assert encryption_findings(copy)[0].verdict is Verdict.WARNING
    shutil.rmtree(copy.data_directory / "tde_convert")
    plant_state(copy.data_directory, direction="decrypt")
    assert not decrypt_cluster(copy, keystore).resumed
    copy.start(None, options=NO_TCP)
    copy.stop()


def test_a_planted_end_of_encryption_is_not_called_encrypted(original, copy, keystore_factory):
    plain = content(copy.data_directory)
    keystore = keystore_factory()
    plant_state(copy.data_directory, keystore_uuid=keystore.uuid.hex)
    with pytest.raises(ConversionError, match="was altered: it does not match the keystore"):
        encrypt_cluster(copy, keystore)
    shutil.rmtree(copy.data_directory / "tde_convert")
    plant_state(copy.data_directory)
    assert not encrypt_cluster(copy, keystore).resumed
    assert without_ours(content(copy.data_directory)) == without_ours(
        encrypted_form(plain, keystore)
    )


def test_a_list_of_files_to_remove_reaches_no_key(original, copy, keystore_factory):
    """A cluster's temporary files were removed by the paths that state.json had."""
    keystore = keystore_factory()
    assert run_until(die_before_the_first_block, lambda: encrypt_cluster(copy, keystore))
    record = keystore.path / "keys/wal.key"
    outside = copy.data_directory.with_name("outside")
    outside.write_text("somebody's")
    whole = (copy.data_directory / "tde_convert/state.json").read_text()
    path = plant_state(copy.data_directory, worthless=[str(record), "../outside"])
    with pytest.raises(ConversionError, match="was altered: it does not match the keystore"):
        encrypt_cluster(copy, keystore)
    assert record.exists()
    assert outside.exists()
    path.write_text(whole)
    assert encrypt_cluster(copy, keystore).resumed
    outside.unlink()


def test_temporary_files_go_also_when_another_run_continues(original, copy, keystore_factory):
    temporary = copy.data_directory / "base/pgsql_tmp/pgsql_tmp1.0"
    temporary.parent.mkdir(exist_ok=True)
    temporary.write_bytes(b"rows")
    keystore = keystore_factory()
    assert run_until(die_before_the_first_block, lambda: encrypt_cluster(copy, keystore))
    summary = encrypt_cluster(copy, keystore)
    assert summary.resumed
    assert not temporary.exists()


def test_another_direction_is_a_claim_and_makes_no_plaintext(original, copy, keystore_factory):
    """Status told the administrator to finish a decryption that nobody had begun."""
    keystore = keystore_factory()
    assert run_until(die_in_write(60, 1), lambda: encrypt_cluster(copy, keystore))
    whole = (copy.data_directory / "tde_convert/state.json").read_text()
    path = plant_state(copy.data_directory, direction="decrypt")
    before = content(copy.data_directory)
    for look in (copy.status, lambda: copy.start(keystore)):
        with pytest.raises(ConversionError, match="files claim that tde pg decrypt") as caught:
            look()
        assert "If nobody did, do not" in caught.value.remedy
    finding = encryption_findings(copy)[0]
    assert (finding.verdict, finding.remedy) == (Verdict.PROBLEM, caught.value.remedy)
    for convert in (decrypt_cluster, encrypt_cluster):
        with pytest.raises(ConversionError, match="was altered: it does not match"):
            convert(copy, keystore)
    assert content(copy.data_directory) == before
    path.write_text(whole)
    assert encrypt_cluster(copy, keystore).resumed


def test_a_keystore_that_only_the_volume_names_encrypts_nothing(
    original, copy, keystore_factory, tde_command
):
    """It opened by itself, and belonged to the attacker."""
    keystore, theirs = keystore_factory(), keystore_factory("theirs")
    theirs.enable_auto_open()
    other = original.copy("theirs-copy")
    assert run_until(die_before_the_first_block, lambda: encrypt_cluster(other, theirs))
    assert run_until(die_before_the_first_block, lambda: encrypt_cluster(copy, keystore))
    state = copy.data_directory / "tde_convert/state.json"
    whole = state.read_text()
    planted = json.loads((other.data_directory / "tde_convert/state.json").read_text())
    state.write_text(json.dumps(planted))
    shutil.rmtree(other.data_directory)
    before = content(copy.data_directory)
    shown = tde_command("pg", "encrypt", copy.data_directory, exit_code=5)
    assert "no keystore is named" in shown.stderr
    named = ("-k", keystore.path, "--passphrase-fd", 0)
    shown = tde_command("pg", "encrypt", copy.data_directory, *named, exit_code=5)
    assert "claims that the conversion" in " ".join(shown.stderr.split())
    assert content(copy.data_directory) == before
    state.write_text(whole)
    tde_command("pg", "encrypt", copy.data_directory, *named)


def test_planted_notes_leave_no_file_plain(original, copy, keystore_factory):
    plain = content(copy.data_directory)
    keystore = keystore_factory()
    assert run_until(die_before_the_first_block, lambda: encrypt_cluster(copy, keystore))
    claim_done(copy.data_directory, files=len(plain))
    assert encrypt_cluster(copy, keystore).resumed
    assert without_ours(content(copy.data_directory)) == without_ours(
        encrypted_form(plain, keystore)
    )


def test_a_true_state_does_not_fit_a_cluster_that_somebody_took_out_of_service(
    original, copy, keystore_factory
):
    """The first step of a conversion was interrupted, and pg_control is renamed by other hands."""
    keystore = keystore_factory()
    assert run_until(die_at_sync(3), lambda: encrypt_cluster(copy, keystore))
    control = copy.data_directory / CONTROL_FILE
    control.rename(copy.data_directory / MOVED_CONTROL)
    with pytest.raises(ConversionError, match="is not the file with which the conversion began"):
        encrypt_cluster(copy, keystore)
    (copy.data_directory / MOVED_CONTROL).rename(control)
    encrypt_cluster(copy, keystore)


def test_a_state_of_another_keystore_that_changed_nothing_is_replaced(
    original, copy, keystore_factory
):
    assert run_until(die_at_sync(3), lambda: encrypt_cluster(copy, keystore_factory("first")))
    fresh = keystore_factory("fresh")
    assert not encrypt_cluster(copy, fresh).resumed


def test_a_link_in_the_place_of_the_journal_is_refused(original, copy, keystore_factory):
    """What is removed at the end would be the files of another directory."""
    keystore = keystore_factory()
    (copy.data_directory / "tde_convert").symlink_to(keystore.path / "keys")
    with pytest.raises(ConversionError, match="tde_convert is not a directory"):
        encrypt_cluster(copy, keystore)


def test_a_cluster_out_of_service_without_a_state_is_no_riddle(original, copy, keystore_factory):
    control = copy.data_directory / CONTROL_FILE
    control.rename(copy.data_directory / MOVED_CONTROL)
    with pytest.raises(ConversionError, match="or somebody has renamed its pg_control") as caught:
        copy.start(None, options=NO_TCP)
    assert f"rename it to {CONTROL_FILE}" in caught.value.remedy
