"""The life of keys of real clusters, and keys that are destroyed when nothing needs them."""

from __future__ import annotations

import gzip
import shutil
from pathlib import Path

import pytest

from tde.algorithms import Algorithm
from tde.errors import ClusterKeystoreError, KeyMissingError, TdeError
from tde.keystore import KeyLife, KeyOwner, KeyState, Keystore, read_lives
from tde.keystore.lifecycle.changes import forget_place, set_age_limit
from tde.keystore.store.names import owner_of_file
from tde.postgres import (
    create_tablespace,
    decrypt_cluster,
    doctor,
    prepare_key,
    rekey_tablespaces,
    survey_keys,
)
from tde.postgres.cluster.key_destruction import (
    destroy_unneeded_key,
    find_destroyable,
    places_to_look_at,
)
from tde.postgres.cluster.keymap import KEYMAP_FILE
from tde.postgres.cluster.wal_rotation import rotate_wal_key
from tests.conftest import RunningCluster
from tests.postgres.cluster_copies import base_backup

WAL = KeyOwner.wal()
SEGMENT = ("--wal-segsize=1",)


@pytest.fixture
def made(any_binaries, encrypted_cluster_factory) -> RunningCluster:
    """A cluster whose keystore knows it where it is, and not where its template was."""
    made: RunningCluster = encrypted_cluster_factory(any_binaries, initdb_args=SEGMENT)
    keystore = keystore_of(made)
    for place in read_lives(keystore.path).places:
        if place.directory != made.data_directory:
            forget_place(keystore, place.directory)
    return made


def keystore_of(made: RunningCluster) -> Keystore:
    assert made.keystore is not None
    return made.keystore


def life_of(made: RunningCluster, owner: KeyOwner, *, look: bool = False) -> KeyLife:
    clusters = [made.data_directory] if look else []
    found = survey_keys(keystore_of(made), clusters).life.find(owner.file_name)
    assert found is not None
    return found


def rotate_wal(made: RunningCluster) -> KeyOwner:
    """Give WAL another key, and write until all segments that are there have it.

    It counts from a segment that nobody has prepared yet; how far that is away differs.
    """
    done = rotate_wal_key(made.cluster, keystore_of(made), Algorithm.AES256)
    made.query("CREATE TABLE IF NOT EXISTS t (x text)")
    segment = ""
    while segment[8:] < done.first_segment:
        made.query("INSERT INTO t SELECT repeat('x', 100) FROM generate_series(1, 100)")
        made.query("SELECT pg_switch_wal()")
        made.query("CHECKPOINT")  # It begins the next one, and removes those before it.
        segment = str(made.query("SELECT pg_walfile_name(pg_current_wal_lsn())")[0][0])
    return done.owner


def destroy(
    made: RunningCluster, owner: KeyOwner, *backups: Path, archives: list[Path] | None = None
):
    keystore = keystore_of(made)
    places = places_to_look_at(keystore, [made.data_directory], backups)
    return destroy_unneeded_key(keystore, owner, places, archives or [])


def refused(made: RunningCluster, owner: KeyOwner, why: str, *backups: Path, **arguments) -> str:
    with pytest.raises(ClusterKeystoreError, match=why) as caught:
        destroy(made, owner, *backups, **arguments)
    assert (keystore_of(made).path / "keys" / owner.file_name).exists()
    return caught.value.remedy


def test_what_verbs_tell_and_what_a_look_finds(
    made: RunningCluster, os_user_tmp_path: Path
) -> None:
    cluster, keystore = made.cluster, keystore_of(made)
    life = read_lives(keystore.path, keystore)
    (place,) = life.places
    (identifier,) = made.query("SELECT system_identifier FROM pg_control_system()")[0]
    assert (place.directory, place.system_identifier) == (made.data_directory, identifier)
    prepared = prepare_key(cluster, keystore, os_user_tmp_path / "b", Algorithm.AES256)
    assert (
        life_of(made, KeyOwner.named(prepared.key_id), look=True).state is KeyState.PRE_ACTIVATION
    )
    space = create_tablespace(cluster, keystore, "secret", os_user_tmp_path / "a", Algorithm.AES128)
    made.query("CREATE TABLE s TABLESPACE secret AS SELECT generate_series(1, 10000) AS n")
    made.query("SET allow_in_place_tablespaces = on")
    assert space.key_file is not None
    key = next(k for k in read_lives(keystore.path).keys if k.owner.file_name == space.key_file)
    life_of_key = life_of(made, key.owner, look=True)
    assert (life_of_key.state, life_of_key.version) == (KeyState.ACTIVE, 1)
    (use,) = life_of_key.used_by
    made.query("CHECKPOINT")
    (size,) = made.query("SELECT pg_tablespace_size('secret')")[0]
    assert (use.what, use.new_data) == (f"tablespace {space.oid} (secret)", True)
    assert use.bytes in (size, None) or abs(use.bytes - size) < 64 * 1024
    # A rotation of WAL, with the segments that have either key.
    later = rotate_wal(made)
    current = str(made.query("SELECT pg_walfile_name(pg_current_wal_lsn())")[0][0])
    new = life_of(made, later, look=True)
    assert (new.state, new.version) == (KeyState.ACTIVE, 2)
    assert current in new.used_by[0].segments
    old = life_of(made, next(iter([k.owner for k in life.keys if k.key_id == "wal"])), look=True)
    assert old.state is KeyState.DEACTIVATED
    assert not old.used_by[0].new_data
    # Dropped in SQL: the look tells the log.
    made.query("DROP TABLE s")
    made.query("DROP TABLESPACE secret")
    assert life_of(made, key.owner).state is KeyState.ACTIVE
    dropped = life_of(made, key.owner, look=True)
    assert dropped.state is KeyState.DEACTIVATED
    assert dropped.deactivated is not None
    assert dropped.deactivated.entry is not None
    assert life_of(made, key.owner).state is KeyState.DEACTIVATED


def test_a_rekey_and_a_decryption_end_the_use_of_keys(made: RunningCluster) -> None:
    keystore = keystore_of(made)
    made.cluster.stop()
    set_age_limit(keystore, "1663.key", 1)
    rekey_tablespaces(made.cluster, keystore, ["1663"])
    old = life_of(made, KeyOwner.tablespace(1663))
    # The template's path was forgotten, and what it was told of is not this cluster's.
    assert old.state is KeyState.DEACTIVATED
    (new,) = [k for k in read_lives(keystore.path).keys if k.owner.key_id and k.state]
    assert (new.state, new.purposes) == (KeyState.ACTIVE, ("tablespace 1663 (pg_default)",))
    looked = life_of(made, new.owner, look=True)
    assert (looked.version, looked.used_by[0].oid) == (2, 1663)
    assert refused(made, new.owner, r"encrypts tablespace 1663 \(pg_default\) with it")
    decrypt_cluster(made.cluster, keystore)
    assert life_of(made, new.owner).state is KeyState.DEACTIVATED


def test_status_and_doctor_name_the_key_that_is_too_old(made: RunningCluster) -> None:
    keystore = keystore_of(made)
    set_age_limit(keystore, "all", 365)
    status = made.cluster.status(keystore.path)
    assert status.key_ages == []
    # Without its log nobody knows when a key was made.
    (keystore.path / "key.log").unlink()
    set_age_limit(keystore, "1664.key", 365)
    (finding,) = made.cluster.status(keystore.path).key_ages
    assert (finding.file, finding.verdict.value) == ("1664.key", "unknown")
    assert f"tde tablespace rekey 1664 -D {made.data_directory}" in finding.remedy
    assert made.cluster.status(keystore.path).as_json()["key_ages"][0]["verdict"] == "unknown"
    report = doctor(made.data_directory, made.cluster.binaries, os_user=made.cluster.os_user)
    (told,) = report.named("key_ages")
    assert (told.verdict.value, "1664" in told.detail) == ("unknown", True)


def test_a_wal_key_is_destroyed_when_nothing_needs_it(
    made: RunningCluster, os_user_tmp_path: Path, tde_command
) -> None:
    cluster, keystore = made.cluster, keystore_of(made)
    second = rotate_wal(made)
    assert "tde wal rotate" in refused(made, second, "encrypts WAL with it")
    backup = os_user_tmp_path / "backup"
    base_backup(made, backup)
    archive = os_user_tmp_path / "archive"
    archive.mkdir()
    made.query("INSERT INTO t VALUES ('y')")
    segment = str(made.query("SELECT pg_walfile_name(pg_switch_wal() - 1)")[0][0])
    shutil.copy(made.data_directory / "pg_wal" / segment, archive)
    rotate_wal(made)
    rows = made.query("SELECT count(*) FROM t")
    # A server that runs has it in memory; what is stored elsewhere may need it.
    assert "Stop the server" in refused(made, second, "has it in memory")
    made.cluster.stop()
    assert "forget-cluster" in refused(made, second, "the backup .* encrypts WAL with it", backup)
    secret = ("-k", keystore.path, "--passphrase-fd", "0")
    tde_command("keystore", "verify", "--backup", backup, *secret)
    refused(made, second, "the backup .* encrypts WAL with it")
    tde_command("keystore", "forget-cluster", backup, *secret)
    refused(made, second, f"the archive {archive} has 1 WAL segments", archives=[archive])
    # Under the names of programs that keep archives, behind a link, and what tells nothing.
    (archive / segment).rename(archive / f"{segment}-{'0f' * 20}")
    refused(made, second, f"the archive {archive} has 1 WAL segments", archives=[archive])
    linked = os_user_tmp_path / "linked"
    linked.mkdir()
    (linked / "day").symlink_to(archive)
    refused(made, second, f"the archive {linked} has 1 WAL segments", archives=[linked])
    packed = os_user_tmp_path / "packed"
    packed.mkdir()
    (packed / f"{segment}.gz").write_bytes(gzip.compress(next(archive.iterdir()).read_bytes()))
    (packed / f"{segment}.00000028.backup").write_bytes(b"START WAL LOCATION: 0/28 (file x)")
    refused(made, second, r"\.gz tells no key .*\(1 such files", archives=[packed])
    # Where the archive is not mounted, the directory is there and empty.
    unmounted = os_user_tmp_path / "unmounted"
    unmounted.mkdir()
    assert "mounted" in refused(made, second, "no WAL segment in", archives=[unmounted])
    # A known place that is not there now may need it.
    moved = made.data_directory.rename(os_user_tmp_path / "moved")
    assert "forget-cluster" in refused(made, second, "whether .* needs the key cannot be told")
    moved.rename(made.data_directory)
    receipt = destroy(made, second)
    assert receipt["looked_at"] == [str(made.data_directory)]
    assert not (keystore.path / "keys" / second.file_name).exists()
    # The next start does not miss it, and recovery after a crash neither.
    made.start()
    assert made.query("SELECT count(*) FROM t") == rows
    made.cluster.stop("immediate")
    made.start()
    assert made.query("SELECT count(*) FROM t") == rows
    assert life_of(made, second).state is KeyState.DESTROYED
    # The backup cannot be started any more, and says why.
    with pytest.raises(TdeError) as caught:
        made.cluster.__class__(backup, cluster.binaries, os_user=cluster.os_user).start(keystore)
    assert "It was destroyed on" in caught.value.remedy


def test_a_key_that_begins_to_be_needed_meanwhile_is_kept(
    made: RunningCluster, os_user_tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CREATE TABLESPACE, in SQL and past tde, between the look and the destruction."""
    from tde.keystore.lifecycle import destruction

    keystore = keystore_of(made)
    prepared = prepare_key(made.cluster, keystore, os_user_tmp_path / "s", Algorithm.AES256)
    owner = KeyOwner.named(prepared.key_id)
    rename = destruction._rename

    def create_first(path: Path, new: Path) -> None:
        if new.name.endswith(".destroying"):
            create_tablespace(
                made.cluster, keystore, "late", os_user_tmp_path / "s", None, key_id=prepared.key_id
            )
        rename(path, new)

    monkeypatch.setattr(destruction, "_rename", create_first)
    refused(made, owner, "encrypts tablespace .* with it")
    made.query("CREATE TABLE late TABLESPACE late AS SELECT 1 AS n")
    assert made.query("SELECT n FROM late") == [(1,)]


def test_a_key_that_only_seems_unneeded_is_kept(
    made: RunningCluster, os_user_tmp_path: Path
) -> None:
    """The map of before the tablespace, and a link that is away while the server is stopped."""
    keystore, data = keystore_of(made), made.data_directory
    first = os_user_tmp_path / "first"
    create_tablespace(made.cluster, keystore, "first", first, Algorithm.AES256)
    keymap = data / KEYMAP_FILE
    older = keymap.read_bytes()
    space = create_tablespace(made.cluster, keystore, "s", os_user_tmp_path / "s", Algorithm.AES256)
    made.query("CREATE TABLE s TABLESPACE s AS SELECT 1 AS n")
    made.cluster.stop()
    assert space.key_file is not None
    owner = owner_of_file(space.key_file)
    assert owner is not None
    newer = keymap.read_bytes()
    keymap.write_bytes(older)
    refused(made, owner, f"tablespace {space.oid}, which its key map does not know")
    link = data / "pg_tblspc" / str(space.oid)
    away = link.rename(os_user_tmp_path / "away")
    assert "forget-cluster" in refused(made, owner, "the map may be an older one")
    keymap.write_bytes(newer)
    assert "tde keystore list -D" in refused(made, owner, "its link in pg_tblspc may only be away")
    # A look does not take it for dropped, neither now nor when the server still has it.
    assert life_of(made, owner, look=True).state is KeyState.ACTIVE
    away.rename(link)
    made.start()
    assert made.query("SELECT n FROM s") == [(1,)]
    made.query("DROP TABLE s")
    made.query("DROP TABLESPACE s")
    assert life_of(made, owner, look=True).state is KeyState.DEACTIVATED
    made.cluster.stop()
    destroy(made, owner)
    made.start()


def test_a_prepared_key_that_nobody_used_is_destroyed_beside_a_running_server(
    made: RunningCluster, os_user_tmp_path: Path
) -> None:
    keystore = keystore_of(made)
    prepared = prepare_key(made.cluster, keystore, os_user_tmp_path / "s", Algorithm.AES256)
    owner = find_destroyable(keystore, prepared.key_id.hex).owner
    assert destroy(made, owner)["looked_at"] == [str(made.data_directory)]
    with pytest.raises(KeyMissingError):
        create_tablespace(
            made.cluster, keystore, "s", os_user_tmp_path / "s", None, key_id=prepared.key_id
        )


def test_a_server_that_the_log_does_not_know_is_asked_for(
    made: RunningCluster, os_user_tmp_path: Path
) -> None:
    """The accident: programs of install-bin write nothing to the log, so it knew no cluster."""
    keystore = keystore_of(made)
    prepared = prepare_key(made.cluster, keystore, os_user_tmp_path / "s", Algorithm.AES256)
    owner = KeyOwner.named(prepared.key_id)
    with pytest.raises(ClusterKeystoreError, match="so nothing tells whether it"):
        destroy_unneeded_key(keystore, owner, [])
    told = f"the server with process id {made.cluster.pid} uses the keystore"
    with pytest.raises(ClusterKeystoreError, match=told):
        destroy_unneeded_key(keystore, owner, [], no_cluster=True)


def test_a_key_that_recovery_may_need_is_kept(made: RunningCluster, os_user_tmp_path: Path) -> None:
    """The accident: recovery came by the life of a tablespace, and ended there for good."""
    cluster, keystore = made.cluster, keystore_of(made)
    space = create_tablespace(cluster, keystore, "s", os_user_tmp_path / "s", Algorithm.AES128)
    assert space.key_file is not None
    owner = owner_of_file(space.key_file)
    assert owner is not None
    made.query("DROP TABLESPACE s")
    made.query("CREATE TABLE precious AS SELECT 1 AS n")
    assert life_of(made, owner, look=True).state is KeyState.DEACTIVATED
    cluster.stop("immediate")
    assert "stop it cleanly" in refused(made, owner, "begins with recovery")
    made.start()
    assert made.query("SELECT n FROM precious") == [(1,)]
    cluster.stop()
    (made.data_directory / "standby.signal").touch()
    refused(made, owner, "it has standby.signal")
    (made.data_directory / "standby.signal").unlink()
    destroy(made, owner)
    made.start()
    assert made.query("SELECT n FROM precious") == [(1,)]
