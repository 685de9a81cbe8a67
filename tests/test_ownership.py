"""Root makes directories for another user, who tries to have others' directories given away."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from tde.errors import KeystoreError, UnreachablePathError, UnsafeDirectoryError
from tde.keystore import KdfParameters, Keystore, inspect_keystore
from tde.ownership import Owner, adopt_directory, create_directory, create_parents
from tde.postgres import OsUser
from tde.postgres.cluster.initialize import initialize_cluster
from tde.postgres.cluster.scope import Scope
from tde.postgres.server.owned_files import append_to_file, write_owned_file
from tde.postgres.tablespace.tablespaces import _made_directories

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives directories away")

USER = OsUser("attacker", 65534, 65534, (), "/")
OWNER = USER.owner
CHEAP = KdfParameters(memory_kib=8192, iterations=1, lanes=1)
PASSPHRASE = b"a passphrase for tests"


@pytest.fixture
def place(os_user_tmp_path: Path) -> Path:
    """A directory that the attacker controls."""
    place = os_user_tmp_path / "place"
    place.mkdir()
    os_user_tmp_path.chmod(0o755)
    os.chown(os_user_tmp_path, 0, 0)
    os.chown(place, OWNER.uid, OWNER.gid)
    return place


@pytest.fixture
def roots(os_user_tmp_path: Path) -> Iterator[Path]:
    """An empty directory of root; a test that gives it away fails."""
    directory = os_user_tmp_path / "of-root"
    directory.mkdir(mode=0o700)
    yield directory
    assert directory.stat().st_uid == 0
    assert list(directory.iterdir()) == []


def owner_and_mode(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_uid, stat.S_IMODE(status.st_mode)


def test_directory_where_the_user_may_write(place):
    create_directory(place / "new", OWNER)
    assert owner_and_mode(place / "new") == (OWNER.uid, 0o700)


def test_directory_where_only_root_may_write(tmp_path):
    create_parents(tmp_path / "a" / "b" / "new", OWNER)
    create_directory(tmp_path / "a" / "b" / "new", OWNER)
    assert owner_and_mode(tmp_path / "a" / "b" / "new") == (OWNER.uid, 0o700)
    assert (tmp_path / "a" / "b").stat().st_uid == 0


def test_empty_directory_of_root_is_adopted(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")  # Made by root where only root may write.
    adopt_directory(tmp_path / "link", OWNER)
    assert owner_and_mode(tmp_path / "real") == (OWNER.uid, 0o700)
    adopt_directory(tmp_path / "link", OWNER)


def test_directory_with_content_is_not_adopted(tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(UnsafeDirectoryError, match="not empty") as caught:
        adopt_directory(tmp_path / "full", OWNER)
    assert caught.value.remedy
    assert (tmp_path / "full").stat().st_uid == 0


def test_link_of_the_user_is_not_followed(place, roots):
    (place / "link").symlink_to(roots)
    with pytest.raises(UnsafeDirectoryError):
        adopt_directory(place / "link", OWNER)
    with pytest.raises(FileExistsError):
        create_directory(place / "link", OWNER)
    with pytest.raises(UnsafeDirectoryError):
        create_directory(place / "link" / "new", OWNER)
    with pytest.raises(UnsafeDirectoryError):
        create_parents(place / "link" / "new" / "er", OWNER)


def test_link_in_a_shared_directory_is_not_followed(tmp_path, roots):
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o1777)
    (shared / "link").symlink_to(roots)
    with pytest.raises(UnsafeDirectoryError):
        adopt_directory(shared / "link", OWNER)


def test_keystore_behind_a_link(place, roots):
    (place / "ks").symlink_to(roots)
    with pytest.raises(KeystoreError):
        Keystore.create(place / "ks", PASSPHRASE, kdf=CHEAP, owner=(OWNER.uid, OWNER.gid))


def test_keys_behind_a_link(place, roots):
    (place / "ks").mkdir(mode=0o700)
    os.chown(place / "ks", OWNER.uid, OWNER.gid)
    (place / "ks" / "keys").symlink_to(roots)
    with pytest.raises(KeystoreError) as caught:
        Keystore.create(place / "ks", PASSPHRASE, kdf=CHEAP, owner=(OWNER.uid, OWNER.gid))
    assert caught.value.remedy


def test_keystore_of_another_user_is_not_taken(place):
    (place / "ks").mkdir(mode=0o700)
    os.chown(place / "ks", 4711, 4711)
    with pytest.raises(KeystoreError):
        Keystore.create(place / "ks", PASSPHRASE, kdf=CHEAP, owner=(OWNER.uid, OWNER.gid))
    assert (place / "ks").stat().st_uid == 4711


def test_tablespace_location_behind_a_link(place, roots):
    (place / "space").symlink_to(roots)
    location = place / "space"
    with (
        pytest.raises((UnsafeDirectoryError, UnreachablePathError)),
        _made_directories(location, location / "tde-key", USER),
    ):
        pytest.fail("a directory was made")


def test_data_directory_behind_a_link(place, roots, any_binaries):
    (place / "data").symlink_to(roots)
    with pytest.raises(UnsafeDirectoryError):
        initialize_cluster(
            place / "data",
            any_binaries,
            USER,
            keystore=None,
            scope=Scope.CLUSTER,
            algorithm=None,
            initdb_args=[],
        )


def test_files_are_written_only_into_the_users_directory(place, roots):
    (place / "data").symlink_to(roots)
    with pytest.raises(UnsafeDirectoryError):
        write_owned_file(place / "data" / "tde.json", "{}", USER)


def test_files_of_others_are_not_appended_to(place):
    (place / "postgresql.conf").write_text("root's")  # As a hard link would look.
    with pytest.raises(UnsafeDirectoryError):
        append_to_file(place / "postgresql.conf", "include", USER)
    assert (place / "postgresql.conf").read_text() == "root's"


def test_current_user_needs_no_checks(tmp_path):
    create_directory(tmp_path / "new", Owner(os.geteuid(), os.getegid()))
    create_directory(tmp_path / "other", None)
    adopt_directory(tmp_path / "new", None)
    assert owner_and_mode(tmp_path / "new") == (0, 0o700)


def test_keys_must_be_a_real_directory(place):
    # Also a link to the user's own directory: its target could be exchanged at any time.
    (place / "ks").mkdir(mode=0o700)
    (place / "elsewhere").mkdir(mode=0o700)
    for path in (place / "ks", place / "elsewhere"):
        os.chown(path, OWNER.uid, OWNER.gid)
    (place / "ks" / "keys").symlink_to(place / "elsewhere")
    create = partial(
        Keystore.create, place / "ks", PASSPHRASE, kdf=CHEAP, owner=(OWNER.uid, OWNER.gid)
    )
    with pytest.raises(KeystoreError, match="only a link"):
        create()
    (place / "ks" / "keys").unlink()
    create().close()
    (place / "ks" / "keys").rename(place / "moved")
    (place / "ks" / "keys").symlink_to(place / "moved")
    with pytest.raises(KeystoreError, match="has no directory"):
        inspect_keystore(place / "ks")
