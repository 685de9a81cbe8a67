"""Turning checksums on: interrupted conversions, damaged pages, and what is refused."""

from __future__ import annotations

import json
import shutil
import zlib

import pytest

from tde import _core
from tde.convert.control_file import require_known_layout
from tde.doctor import Group, Verdict
from tde.errors import ConversionError
from tde.postgres import Cluster, Scope, decrypt_cluster, doctor, encrypt_cluster
from tde.postgres.server.control import read_control_data
from tests.convert.conversions import (
    content,
    encrypted_form,
    make_original,
    with_stock_checksums,
    without_ours,
)
from tests.convert.interruptions import die_at_sync, die_in_write, is_finished, run_until

PAGE = 8192


@pytest.fixture(scope="module")
def original(module_cluster_factory, any_binaries):
    """A stopped cluster that has never had checksums."""
    return make_original(module_cluster_factory, any_binaries, data_checksums=False)


@pytest.fixture(scope="module")
def with_checksums(original):
    """What PostgreSQL's own pg_checksums --enable makes of it."""
    return with_stock_checksums(original.made.cluster)


def has_checksums(cluster: Cluster) -> bool:
    return read_control_data(
        cluster.data_directory, cluster.binaries, cluster.os_user
    ).data_checksums


@pytest.mark.parametrize("scope", Scope)
def test_a_conversion_that_dies_at_any_step_is_finished(
    original, copy, with_checksums, keystore_factory, scope
):
    """A block torn between a page without checksum and ciphertext of it with one is finished."""
    keystore = keystore_factory()
    named = [original.tablespace] if scope is Scope.TABLESPACES else None

    def convert() -> None:
        if not is_finished(copy, "encrypt"):
            encrypt_cluster(copy, keystore, scope=scope, tablespaces=named, jobs=2)

    deaths = 0
    for point in (
        *(die_at_sync(number) for number in (*range(0, 24, 5), 60)),
        *(die_in_write(number * 7, number) for number in range(8)),
        *(die_at_sync(number, of_finish=True) for number in range(20)),
    ):
        if not run_until(point, convert):
            break
        deaths += 1
        if (copy.data_directory / "global/pg_control").exists() and has_checksums(copy):
            assert copy.marker is not None  # All blocks are done.
    assert deaths > 15
    assert without_ours(content(copy.data_directory)) == without_ours(
        encrypted_form(with_checksums, keystore)
    )


def test_continuing_keeps_to_what_the_first_run_was_told(
    original, copy, with_checksums, keystore_factory
):
    keystore = keystore_factory()
    assert run_until(die_in_write(20, 1), lambda: encrypt_cluster(copy, keystore))
    before = content(copy.data_directory)
    with pytest.raises(ConversionError, match="was begun with data checksums to be turned on"):
        encrypt_cluster(copy, keystore, checksums=False)
    assert content(copy.data_directory) == before
    assert encrypt_cluster(copy, keystore, checksums=True).checksums_turned_on

    other = original.copy("told-to-leave-them-off")
    keystore = keystore_factory("other")
    off = lambda: encrypt_cluster(other, keystore, checksums=False)  # noqa: E731
    assert run_until(die_in_write(20, 1), off)
    with pytest.raises(ConversionError, match="was begun with --no-checksums") as caught:
        encrypt_cluster(other, keystore, checksums=True)
    assert "options of its first run, or with none" in caught.value.remedy
    summary = encrypt_cluster(other, keystore)
    assert summary.resumed
    assert not summary.data_checksums
    shutil.rmtree(other.data_directory)


def test_what_a_run_was_told_that_changed_nothing_yet_holds_too(original, copy, keystore_factory):
    """The same command without options continues, also when it died before its first block."""
    keystore = keystore_factory()
    off = lambda: encrypt_cluster(copy, keystore, checksums=False)  # noqa: E731
    assert run_until(die_at_sync(3), off)
    assert (copy.data_directory / "global/pg_control").exists()
    assert (copy.data_directory / "tde_convert/state.json").exists()
    assert not encrypt_cluster(copy, keystore).data_checksums


def test_a_conversion_of_an_earlier_release_is_left_to_that(original, copy, keystore_factory):
    """It turned no checksums on, and nothing vouches for its journal."""
    keystore = keystore_factory()
    assert run_until(die_in_write(20, 1), lambda: encrypt_cluster(copy, keystore))
    path = copy.data_directory / "tde_convert/state.json"
    body = json.loads(path.read_text())["conversion"]
    checksum = zlib.crc32(json.dumps(body, sort_keys=True).encode())
    document = {"format": "tde-convert", "checksum": checksum, "conversion": body}
    before = content(copy.data_directory)
    path.write_text(json.dumps({**document, "version": 4}))
    with pytest.raises(ConversionError, match="has version 4, which this tde does not know"):
        encrypt_cluster(copy, keystore)
    path.write_text(json.dumps({**document, "version": 1}))
    for act in (lambda: encrypt_cluster(copy, keystore), lambda: copy.start(None), copy.status):
        with pytest.raises(ConversionError, match="of an earlier release of tde") as caught:
            act()
        assert "finish it with the release that began it" in caught.value.remedy
    before["tde_convert/state.json"] = path.read_bytes()
    assert content(copy.data_directory) == before


def test_what_an_earlier_release_left_of_a_finished_conversion_may_go(
    original, copy, keystore_factory
):
    journal = copy.data_directory / "tde_convert"
    journal.mkdir()
    document = {"format": "tde-convert", "version": 1, "checksum": 0, "conversion": {}}
    (journal / "state.json").write_text(json.dumps(document))
    with pytest.raises(ConversionError, match="of an earlier release of tde") as caught:
        encrypt_cluster(copy, keystore_factory())
    assert f"remove {journal}" in caught.value.remedy
    shutil.rmtree(journal)
    encrypt_cluster(copy, keystore_factory("fresh"))


def test_a_file_added_to_a_plaintext_tablespace_meanwhile_is_noticed(
    original, copy, keystore_factory
):
    """Its pages would have no checksums in a cluster that has them."""
    keystore = keystore_factory()
    arguments = {"scope": Scope.TABLESPACES, "tablespaces": [original.tablespace]}
    assert run_until(die_in_write(3, 1), lambda: encrypt_cluster(copy, keystore, **arguments))
    added = copy.data_directory / "base/5/88888"
    shutil.copyfile(copy.data_directory / "base/5/1259", added)
    with pytest.raises(ConversionError, match="88888 was not there when the conversion began"):
        encrypt_cluster(copy, keystore)
    added.unlink()
    assert encrypt_cluster(copy, keystore).checksums_turned_on


def test_damaged_pages_stay_as_they_are_and_fail_the_check(
    original, copy, with_checksums, keystore_factory, tde_command
):
    """A checksum would vouch for what the server refuses; and bytes of it may be wanted back."""
    name = "base/5/2619"
    path = copy.data_directory / name
    with path.open("r+b") as file:
        file.seek(2 * PAGE + 12)
        file.write(b"\xff" * 8)  # pd_lower to pd_pagesize_version.
    before = path.read_bytes()
    keystore = keystore_factory()
    keys = ["-k", keystore.path, "--passphrase-fd", 0, "--bindir", copy.binaries.bindir]
    shown = tde_command("pg", "encrypt", copy.data_directory, *keys)
    assert "1 blocks are not valid pages" in shown.stderr
    assert "those that PostgreSQL refuses to read got no checksum" in shown.stderr
    assert f"block 2 of {path}" in shown.stderr
    check = ["pg_checksums", "--check", "-D", copy.data_directory]
    place = ["-D", copy.data_directory, *keys[2:]]
    checked = tde_command("pg", "exec", *place, *check, exit_code=1)
    assert "Bad checksums:  1" in checked.stdout
    decrypt_cluster(copy, keystore)
    now = path.read_bytes()
    assert now[2 * PAGE : 3 * PAGE] == before[2 * PAGE : 3 * PAGE]
    assert now[: 2 * PAGE] == with_checksums[name][: 2 * PAGE]


def test_a_control_file_of_another_layout_is_refused_before_anything_is_changed(
    original, copy, keystore_factory
):
    """A vendor's server may have fields of its own; a guess would spoil one of them."""
    path = copy.data_directory / "global/pg_control"
    control = path.read_bytes()
    require_known_layout(control, copy.data_directory)
    spoilt = control.replace((2048).to_bytes(4, "little"), (2049).to_bytes(4, "little"))
    for wrong in (spoilt, bytes(PAGE), control[:8] + b"\1" + control[9:]):
        with pytest.raises(ConversionError, match="cannot be turned on") as caught:
            require_known_layout(wrong, copy.data_directory)
        assert "--no-checksums" in caught.value.remedy


def test_pages_that_no_server_reads_are_told_from_those_without_checksum():
    page = bytearray(b"\x5a" * PAGE)
    page[10:20] = b"".join(n.to_bytes(2, "little") for n in (0, 24, 100, 8192, PAGE | 4))
    zeros = bytes(PAGE)
    new = bytearray(PAGE)  # pd_upper is 0, but it is not empty.
    new[100] = 1
    backwards = bytearray(page)
    backwards[12:14] = (200).to_bytes(2, "little")  # pd_lower behind pd_upper.
    flags = bytearray(page)
    flags[10] = 8
    blocks = bytearray(b"".join([page, zeros, new, page, backwards, flags]))
    before = bytes(blocks)
    first = 131071
    assert _core.set_checksums(blocks, first) == bytes([0, 0, 1, 0, 1, 1])
    for number in (1, 2, 4, 5):
        place = slice(number * PAGE, (number + 1) * PAGE)
        assert blocks[place] == before[place]
    for number in (0, 3):
        found = blocks[number * PAGE : (number + 1) * PAGE]
        value = int.from_bytes(found[8:10], "little")
        assert value == _core.page_checksum(found, first + number)
        assert found[:8] + found[10:] == page[:8] + page[10:]
    with pytest.raises(ValueError, match="whole number of blocks"):
        _core.set_checksums(bytearray(PAGE + 1), 0)
    with pytest.raises(ValueError, match="of one fork"):
        _core.set_checksums(bytearray(2 * PAGE), 2**32 - 1)
    with pytest.raises((TypeError, BufferError)):
        _core.set_checksums(zeros, 0)


def test_doctor_names_the_command_that_turns_them_on(original, copy, keystore_factory):
    def found():
        report = doctor(copy.data_directory, copy.binaries, groups=[Group.CLUSTER])
        return next(finding for finding in report.findings if finding.check == "checksums")

    assert found().verdict is Verdict.PROBLEM
    assert "tde pg encrypt turns them on" in found().remedy
    assert f"pg_checksums --enable -D {copy.data_directory}" in found().remedy
    encrypt_cluster(copy, keystore_factory())
    assert found().verdict is Verdict.OK
