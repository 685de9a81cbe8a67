"""A report is as it was sealed, or that it is not is said: every form, every byte."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator

import pytest

from tde.errors import KeystoreBusyError, ReportError
from tde.keystore import Keystore, change_passphrase, read_key_log, rotate_master_key
from tde.keystore.providers.passphrase import PassphraseProvider
from tde.report import ReportForm, pdf, seal, verify
from tde.report.sealing import EVENT
from tests.keystore.cheap_passphrase import PASSPHRASE
from tests.report.fixed import SCRIPT, fixed_report
from tests.report.test_page import streams

Sealed = dict[ReportForm, bytes]
every_form = pytest.mark.parametrize("form", ReportForm)


@pytest.fixture(autouse=True, scope="module")
def quick_layout() -> Iterator[None]:
    """Lay no page out: what a PDF looks like does not matter here, and takes seconds each."""
    with pytest.MonkeyPatch.context() as patches:
        patches.setattr(
            pdf,
            "render_pdf",
            lambda report, data, paper: b"%PDF-1.7\nstream\n" + data + b"\nendstream\n%%EOF\n",
        )
        yield


@pytest.fixture(scope="module")
def sealed(module_cluster_factory) -> tuple[Keystore, Sealed]:
    """All forms of one report, and the keystore that has sealed them, which stays as it is."""
    keystore = module_cluster_factory.keystore("sealing")
    return keystore, seal(fixed_report(), keystore, tuple(ReportForm))


@every_form
def test_a_report_is_proven_and_the_key_log_tells_of_it(form, sealed):
    keystore, files = sealed
    found = verify(files[form], keystore)
    assert found.form is form
    assert found.proof.is_current
    assert found.proof.entry.event == EVENT
    assert found.proof.entry.details["report"] == fixed_report().id.hex
    if form is not ReportForm.PDF:
        assert found.data["verdict"] == "findings"
        assert found.data["tablespaces"][0]["databases"][1] == SCRIPT


@every_form
def test_a_byte_that_was_altered_is_found_anywhere(form, sealed):
    keystore, files = sealed
    file = files[form]
    step = len(file) // 150
    places = [*range(0, len(file), step), *range(len(file) - 260, len(file))]
    for place in places:
        altered = bytearray(file)
        altered[place] ^= 1
        with pytest.raises(ReportError):
            verify(bytes(altered), keystore)


@every_form
def test_nothing_can_be_added_or_cut_off(form, sealed):
    keystore, files = sealed
    file = files[form]
    for altered in (file + b"\n", b"\n" + file, file[:-1], file[1:], file + file, b""):
        with pytest.raises(ReportError):
            verify(altered, keystore)


def test_the_seal_of_one_form_is_none_of_another(sealed):
    """Whoever has the code over some bytes has none over the same bytes as another form."""
    keystore, files = sealed
    end = files[ReportForm.JSON][-400:]
    for form in (ReportForm.HTML, ReportForm.PDF):
        with pytest.raises(ReportError):
            verify(files[form] + end, keystore)


def test_the_data_in_the_page_and_in_the_pdf_is_a_sealed_report_by_itself(sealed):
    keystore, files = sealed
    data = files[ReportForm.JSON]
    assert data.decode() in files[ReportForm.HTML].decode()
    assert data in streams(files[ReportForm.PDF])
    assert b"<script>alert" not in data
    assert verify(data, keystore).proof.entry is not None


def test_another_keystore_proves_nothing(sealed, keystore):
    _, files = sealed
    with pytest.raises(ReportError, match="names the keystore"):
        verify(files[ReportForm.HTML], keystore)


@every_form
def test_a_report_outlives_rotations_and_another_passphrase(form, keystore):
    file = seal(fixed_report(), keystore, [form])[form]
    rotate_master_key(keystore.path, PASSPHRASE).close()
    change_passphrase(keystore.path, PassphraseProvider(PASSPHRASE), b"another passphrase")
    with rotate_master_key(keystore.path, b"another passphrase") as rotated:
        proof = verify(file, rotated).proof
        assert not proof.is_current
        assert proof.entry.event == EVENT
        altered = file.replace(b"11999", b"12999")
        assert altered != file
        with pytest.raises(ReportError):
            verify(altered, rotated)


def test_who_has_an_old_master_key_makes_no_report_after_its_rotation(keystore, os_user_tmp_path):
    """That is why it was rotated. His own copy of the keystore tells of it; ours does not."""
    stolen = os_user_tmp_path / "stolen"
    shutil.copytree(keystore.path, stolen)
    give_like(keystore.path, stolen)
    rotated = rotate_master_key(keystore.path, PASSPHRASE)
    with rotated, Keystore.open(stolen, PASSPHRASE) as thief:
        forged = seal(fixed_report(), thief, [ReportForm.JSON])[ReportForm.JSON]
        assert verify(forged, thief).proof.entry is not None
        with pytest.raises(ReportError, match="who has that master key could have made it"):
            verify(forged, rotated)


def test_a_seal_of_today_is_good_without_the_key_log(keystore):
    """As when the keystore was restored from a backup that is older than the report."""
    file = seal(fixed_report(), keystore, [ReportForm.JSON])[ReportForm.JSON]
    log = keystore.path / "key.log"
    lines = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(b"".join(lines[:-1]))
    proof = verify(file, keystore).proof
    assert proof.entry is None
    assert proof.is_current


def test_an_altered_key_log_proves_no_report_of_before_a_rotation(keystore):
    file = seal(fixed_report(), keystore, [ReportForm.JSON])[ReportForm.JSON]
    with rotate_master_key(keystore.path, PASSPHRASE) as rotated:
        log = keystore.path / "key.log"
        log.write_bytes(log.read_bytes().replace(b'"create keystore"', b'"create_keystore"'))
        with pytest.raises(ReportError):
            verify(file, rotated)


def test_no_report_is_sealed_with_a_master_key_that_counts_no_more(keystore):
    rotate_master_key(keystore.path, PASSPHRASE).close()
    before = len(read_key_log(keystore.path).entries)
    with pytest.raises(KeystoreBusyError):
        seal(fixed_report(), keystore, [ReportForm.JSON])
    assert len(read_key_log(keystore.path).entries) == before


def give_like(model, directory) -> None:
    status = model.stat()
    for path in (directory, *directory.rglob("*")):
        os.chown(path, status.st_uid, status.st_gid)
