"""tde tablespace rekey on a stopped cluster: what changes, interruptions, and what is refused."""

from __future__ import annotations

import re
import shutil

import pytest

from tde import FileIdentity, IdentityError
from tde.algorithms import Algorithm
from tde.convert import runner
from tde.errors import (
    ClusterKeystoreError,
    ConversionError,
    DamagedPagesError,
    KeyMapError,
    KeystoreError,
    TdeError,
)
from tde.keystore import KeyOwner, inspect_keystore
from tde.page.codec import PAGE_SIZE
from tde.page.identity import RelationIdentity
from tde.postgres import Scope, decrypt_cluster, encrypt_cluster, rekey_tablespaces
from tde.postgres.cluster.keymap import (
    KEYMAP_FILE,
    KeySource,
    MapEntry,
    map_key,
    pack_map,
    read_map,
)
from tde.postgres.cluster.keys_of_pages import require_keys_of_stopped
from tde.postgres.cluster.unfinished_conversion import MOVED_CONTROL
from tests.convert.conversions import content, copy_tree, without_ours
from tests.convert.forgeries import plant_state
from tests.convert.interruptions import Killer, die, die_at_sync, die_in_write, run_until


def keys_of(cluster, keystore) -> dict[int, object]:
    """Return what the map says of the three tablespaces."""
    keymap = read_map(cluster.data_directory, keystore.uuid, map_key(keystore))
    return {oid: keymap.find(oid) for oid in (1663, 1664, *sorted(keymap.entries))}


def tablespace_of(name: str) -> int | None:
    """Return the tablespace of a relation file, and ``None`` for all else."""
    try:
        found = FileIdentity.from_path(name)
    except IdentityError:
        return None
    return found.tablespace if isinstance(found.identity, RelationIdentity) else None


def require_rekeyed(before, after, tablespaces=None) -> None:
    """Check that no block of these is as it was, zeros aside, and that all else is."""
    assert before.keys() == after.keys()
    for name in before.keys() - {KEYMAP_FILE}:
        oid = tablespace_of(name)
        if oid is None or (tablespaces is not None and oid not in tablespaces):
            assert after[name] == before[name], name
            continue
        assert len(after[name]) == len(before[name])
        for at in range(0, len(before[name]), PAGE_SIZE):
            old, new = (files[name][at : at + PAGE_SIZE] for files in (before, after))
            assert (old == new) is not any(old), f"block {at // PAGE_SIZE} of {name}"
            if any(old):
                assert all(old[i : i + 16] != new[i : i + 16] for i in range(0, PAGE_SIZE, 512))


def require_plain_form(cluster, keystore, plain) -> None:
    decrypt_cluster(cluster, keystore)
    assert without_ours(content(cluster.data_directory)) == without_ours(plain)


def test_every_block_gets_another_form_and_means_the_same(original, encrypted):
    cluster, keystore = encrypted
    plain = content(original.made.data_directory)
    before, keys = content(cluster.data_directory), keys_of(cluster, keystore)
    summary = rekey_tablespaces(cluster, keystore, every=True, algorithm=Algorithm.AES128)
    assert sorted(summary.tablespaces) == sorted(keys)
    assert (summary.direction, summary.algorithm) == ("rekey", "AES-128-XTS")
    assert summary.invalid_pages == 0
    after = content(cluster.data_directory)
    require_rekeyed(before, after)
    assert after[KEYMAP_FILE].startswith(before[KEYMAP_FILE])
    entries = keys_of(cluster, keystore)
    assert {entry.source for entry in entries.values()} == {KeySource.REKEYED}
    # The old keys stay: backups need them.
    present = {record.owner: record.algorithm for record in inspect_keystore(keystore.path).keys}
    assert {entry.owner for entry in (*keys.values(), *entries.values())} <= present.keys()
    assert {present[entry.owner] for entry in entries.values()} == {Algorithm.AES128}
    # Once more, one of them only, with the algorithm that it has.
    rekey_tablespaces(cluster, keystore, [original.tablespace, "pg_default"])
    again = content(cluster.data_directory)
    require_rekeyed(after, again, {original.tablespace, 1663})
    assert keys_of(cluster, keystore)[1664] == entries[1664]
    require_plain_form(cluster, keystore, plain)


def test_a_rekey_that_dies_at_any_step_is_finished(original, encrypted):
    """Each run dies a little later than the one before; blocks are torn in between."""
    cluster, keystore = encrypted
    before = content(cluster.data_directory)
    points = [
        *(die_at_sync(number) for number in (0, 2, 4, 6, 8, 12, 20, 60)),
        *(die_in_write(number * 3, number) for number in range(4)),
        *(die_at_sync(number, of_finish=True) for number in range(16)),
    ]

    def is_done() -> bool:
        left = cluster.data_directory / "tde_convert"
        entries = keys_of(cluster, keystore).values()
        return not left.exists() and all(e.source is KeySource.REKEYED for e in entries)

    def rekey() -> None:
        if not is_done():  # Else it would begin a second one.
            rekey_tablespaces(cluster, keystore, every=True, jobs=2)

    for number, point in enumerate(points):
        if number == 12:
            assert (cluster.data_directory / MOVED_CONTROL).exists()
            now = content(cluster.data_directory)
            with pytest.raises(TdeError, match="tde tablespace rekey was interrupted") as caught:
                cluster.start(keystore, options={"listen_addresses": ""}, timeout=10)
            assert "tde tablespace rekey -D" in caught.value.remedy
            assert content(cluster.data_directory) == now
        if not run_until(point, rekey):
            break
    assert 14 <= number < len(points)
    require_rekeyed(before, content(cluster.data_directory))
    require_plain_form(cluster, keystore, content(original.made.data_directory))


def test_a_killed_rekey_is_finished_by_the_same_command(original, encrypted):
    cluster, keystore = encrypted
    before = content(cluster.data_directory)
    killer = Killer(cluster, keystore.path, 3)
    # One that was faster than its end is followed by another.
    while killer.kills < 3:
        killer.run("rekey", kill=True)
    assert killer.run("rekey", kill=False)
    require_rekeyed(before, content(cluster.data_directory))
    require_plain_form(cluster, keystore, content(original.made.data_directory))


def test_an_unfinished_rekey_is_continued_by_nothing_else(encrypted, tde_command):
    cluster, keystore = encrypted
    path = cluster.data_directory
    convert = lambda: rekey_tablespaces(cluster, keystore, ["pg_global"])  # noqa: E731
    assert run_until(die_in_write(3, 1), convert)
    with pytest.raises(ConversionError, match="tde tablespace rekey was interrupted"):
        decrypt_cluster(cluster, keystore)
    with pytest.raises(ConversionError, match="begun with other tablespaces"):
        rekey_tablespaces(cluster, keystore, ["pg_default"])
    with pytest.raises(ConversionError, match="begun with some tablespaces only"):
        rekey_tablespaces(cluster, keystore, every=True)
    with pytest.raises(ConversionError, match="begun with another algorithm"):
        rekey_tablespaces(cluster, keystore, ["pg_global"], algorithm=Algorithm.AES128)
    shown = tde_command("pg", "status", "-D", path, exit_code=1)
    assert f"tde tablespace rekey -D {path}" in shown.stderr
    # Without names it is finished, whatever it was.
    arguments = ("-D", path, "-k", keystore.path, "--passphrase-fd", "0")
    shown = tde_command("tablespace", "rekey", *arguments)
    assert "continuing an earlier run" in shown.stdout
    assert "Back the keystore" in shown.stdout
    assert keys_of(cluster, keystore)[1664].source is KeySource.REKEYED
    assert keys_of(cluster, keystore)[1663].source is KeySource.RECORD
    shown = tde_command("tablespace", "rekey", *arguments, exit_code=1)
    assert "no tablespace was named, and no rekey is unfinished" in shown.stderr


def test_a_repetition_is_told_from_a_second_rekey(encrypted):
    """Both find the journal of one that was killed after its last step."""
    cluster, keystore = encrypted

    def rekey():
        return rekey_tablespaces(cluster, keystore, every=True)

    def die_before_the_journal_goes() -> None:
        runner.remove_journal = lambda _directory: die()

    assert run_until(die_before_the_journal_goes, rekey)
    first = keys_of(cluster, keystore)
    assert rekey().resumed
    assert keys_of(cluster, keystore) == first
    assert run_until(die_before_the_journal_goes, rekey)
    second = keys_of(cluster, keystore)
    assert second != first
    cluster.start(keystore, options={"listen_addresses": ""})
    cluster.stop()
    assert not rekey().resumed
    assert keys_of(cluster, keystore) != second
    assert not (cluster.data_directory / "tde_convert").exists()


def test_the_new_key_must_still_be_there(encrypted):
    """A record of the new key that was lost between the runs is not replaced by another."""
    cluster, keystore = encrypted
    assert run_until(die_in_write(9, 1), lambda: rekey_tablespaces(cluster, keystore, every=True))
    records = [r.owner for r in inspect_keystore(keystore.path).keys if r.owner.key_id]
    assert len(records) == 3
    record = keystore.path / "keys" / records[0].file_name
    away = record.with_suffix(".away")
    record.rename(away)
    with pytest.raises(KeystoreError, match=f"{records[0].key_id.hex}|no key"):
        rekey_tablespaces(cluster, keystore, every=True)
    away.rename(record)
    assert rekey_tablespaces(cluster, keystore, every=True).resumed


@pytest.mark.parametrize("direction", ["encrypt", "decrypt"])
def test_the_direction_cannot_be_forged(encrypted, direction):
    cluster, keystore = encrypted
    assert run_until(die_in_write(9, 1), lambda: rekey_tablespaces(cluster, keystore, every=True))
    state = cluster.data_directory / "tde_convert/state.json"
    whole = state.read_text()
    plant_state(cluster.data_directory, direction=direction)
    convert = {"encrypt": encrypt_cluster, "decrypt": decrypt_cluster}[direction]
    with pytest.raises(ConversionError, match="is damaged or was altered"):
        convert(cluster, keystore)
    state.write_text(whole)
    assert rekey_tablespaces(cluster, keystore).resumed


def test_an_older_map_is_refused_while_and_after_keys_are_replaced(encrypted):
    """Whoever may write to the volume puts the map of before back: nothing is read as noise."""
    cluster, keystore = encrypted
    path = cluster.data_directory / KEYMAP_FILE
    older = path.read_bytes()
    rekey_tablespaces(cluster, keystore, every=True)
    newer = path.read_bytes()
    path.write_bytes(older)
    with pytest.raises(DamagedPagesError, match="cannot be read with the keys of") as caught:
        cluster.start(keystore, options={"listen_addresses": ""}, timeout=10)
    assert re.search(r"They fit keys/[0-9a-f]{32}\.key of the keystore", str(caught.value))
    assert "of before tde tablespace rekey" in caught.value.remedy
    path.write_bytes(newer)
    assert run_until(
        die_at_sync(1, of_finish=True), lambda: rekey_tablespaces(cluster, keystore, every=True)
    )
    path.write_bytes(older)
    with pytest.raises(ConversionError, match="is not the map with which the rekey began"):
        rekey_tablespaces(cluster, keystore)
    path.write_bytes(newer)
    assert rekey_tablespaces(cluster, keystore).resumed


def test_an_older_map_is_told_by_the_pages_of_one_tablespace(original, encrypted):
    cluster, keystore = encrypted
    path = cluster.data_directory / KEYMAP_FILE
    older = path.read_bytes()
    rekey_tablespaces(cluster, keystore, ["secret"])
    newer = path.read_bytes()
    path.write_bytes(older)
    before = content(cluster.data_directory)
    with pytest.raises(KeyMapError, match=f"files of tablespace {original.tablespace} have") as no:
        cluster.start(keystore, options={"listen_addresses": ""}, timeout=10)
    assert "of before tde tablespace rekey" in no.value.remedy
    # What converts it, or writes checksums, would make noise of it for good.
    for work in (
        lambda: rekey_tablespaces(cluster, keystore, ["secret"], allow_invalid_pages=True),
        lambda: decrypt_cluster(cluster, keystore, allow_invalid_pages=True),
        lambda: require_keys_of_stopped(cluster.data_directory, keystore),
    ):
        with pytest.raises(KeyMapError, match="have another key than"):
            work()
    assert content(cluster.data_directory) == before
    path.write_bytes(newer)
    cluster.start(keystore, options={"listen_addresses": ""}, timeout=60)
    cluster.stop()


def test_another_node_takes_the_same_keys(original, encrypted, keystore_factory):
    cluster, keystore = encrypted
    other_directory = cluster.data_directory.with_name("other-node")
    copy_tree(cluster.data_directory, other_directory)
    other = original.factory.track(
        type(cluster)(other_directory, cluster.binaries, os_user=cluster.os_user)
    )
    try:
        rekey_tablespaces(cluster, keystore, ["pg_default", original.tablespace])
        done = rekey_tablespaces(other, keystore, every=True, same_keys_as=cluster.data_directory)
        assert sorted(done.tablespaces) == sorted([1663, original.tablespace])
        wanted = content(cluster.data_directory)
        assert content(other_directory) == wanted
        with pytest.raises(ConversionError, match="no tablespace that is to get another key"):
            rekey_tablespaces(
                other, keystore, every=True, same_keys_as=cluster.data_directory / KEYMAP_FILE
            )
        # Two tablespaces with one key, as a server might have that has parted.
        mine = keys_of(other, keystore)
        swapped = other_directory / "swapped"
        entries = [MapEntry(1664, KeySource.REKEYED, mine[1663].key_id)]
        swapped.write_bytes(pack_map(entries, keystore.uuid, map_key(keystore)))
        with pytest.raises(ConversionError, match="1664 would get a key that tablespace 1663 has"):
            rekey_tablespaces(other, keystore, ["pg_global"], same_keys_as=swapped)
        stranger = keystore_factory("stranger")
        foreign = other_directory / "foreign"
        foreign.write_bytes(wanted[KEYMAP_FILE].replace(keystore.uuid.bytes, stranger.uuid.bytes))
        with pytest.raises(KeyMapError, match="belongs to another keystore"):
            rekey_tablespaces(other, keystore, every=True, same_keys_as=foreign)
    finally:
        shutil.rmtree(other_directory)


def test_what_is_refused(encrypted, tde_command, keystore_factory):
    cluster, keystore = encrypted
    before, keys = content(cluster.data_directory), inspect_keystore(keystore.path).keys
    for tablespaces, message in (
        (["nowhere"], 'there is no tablespace "nowhere"'),
        ([4711], "has no tablespace with OID 4711"),
        (None, "no tablespace was named"),
    ):
        with pytest.raises(ConversionError, match=message):
            rekey_tablespaces(cluster, keystore, tablespaces)
    with pytest.raises(ClusterKeystoreError):
        rekey_tablespaces(cluster, keystore_factory("other"), every=True)
    usage = ("tablespace", "rekey", "-D", cluster.data_directory, "pg_default")
    for options in (("--all",), ("--aes", "128", "--same-keys-as", "x")):
        tde_command(*usage, *options, exit_code=2)
    (keystore.path / "keys.new").mkdir(mode=0o700)  # As a rotation that was interrupted.
    with pytest.raises(KeystoreError, match="rotation"):
        rekey_tablespaces(cluster, keystore, every=True)
    (keystore.path / "keys.new").rmdir()
    assert content(cluster.data_directory) == before
    assert inspect_keystore(keystore.path).keys == keys
    decrypt_cluster(cluster, keystore)
    with pytest.raises(ConversionError, match="is not encrypted"):
        rekey_tablespaces(cluster, keystore, every=True)


def test_plaintext_tablespaces_stay_plaintext(original, copy, keystore_factory):
    keystore = keystore_factory()
    encrypt_cluster(copy, keystore, scope=Scope.TABLESPACES, tablespaces=[original.tablespace])
    before = content(copy.data_directory)
    with pytest.raises(ConversionError, match="tablespace 1663 is in plaintext") as caught:
        rekey_tablespaces(copy, keystore, ["pg_default"])
    assert "make a tablespace with a key" in caught.value.remedy
    summary = rekey_tablespaces(copy, keystore, ["secret"])
    assert summary.tablespaces == [original.tablespace]
    after = content(copy.data_directory)
    require_rekeyed(before, after, {original.tablespace})
    assert rekey_tablespaces(copy, keystore, every=True).tablespaces == [original.tablespace]
    assert KeyOwner.tablespace(1663) in {r.owner for r in inspect_keystore(keystore.path).keys}
    require_plain_form(copy, keystore, content(original.made.data_directory))
