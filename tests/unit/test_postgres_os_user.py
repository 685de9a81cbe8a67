"""Choosing the server's user, and what it may reach."""

from __future__ import annotations

import os
import pwd

import pytest

from tde.errors import OsUserError, UnreachablePathError
from tde.postgres.server.os_user import (
    OsUser,
    can_access,
    current_user_name,
    require_reachable,
    run_as,
    server_os_user,
    user_environment,
    user_name,
)

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
unprivileged = pytest.mark.skipif(os.geteuid() == 0, reason="needs an ordinary user")


@pytest.fixture
def nobody() -> OsUser:
    return OsUser.from_passwd(pwd.getpwnam("nobody"))


@unprivileged
def test_ordinary_user_runs_the_server_itself(tmp_path):
    assert server_os_user(tmp_path) is None
    assert server_os_user(None, name=current_user_name()) is None
    with pytest.raises(OsUserError, match="only root"):
        server_os_user(None, name="daemon")


@as_root
def test_owner_of_the_data_directory_wins(tmp_path, nobody):
    os.chown(tmp_path, nobody.uid, nobody.gid)
    assert server_os_user(tmp_path) == nobody
    assert server_os_user(tmp_path, name="nobody") == nobody
    with pytest.raises(OsUserError, match="belongs to nobody"):
        server_os_user(tmp_path, name="daemon")


@as_root
def test_fallbacks(tmp_path):
    user = server_os_user(tmp_path)  # A directory of root's is about to change hands.
    assert user is not None
    assert user.name in ("postgres", "nobody")
    assert server_os_user(tmp_path / "missing") == user


@as_root
def test_owner_without_a_name(tmp_path):
    os.chown(tmp_path, 54321, 54322)
    user = server_os_user(tmp_path)
    assert user is not None
    assert (user.uid, user.gid, user.name) == (54321, 54322, "54321")
    assert user_name(54321) == "54321"


@as_root
@pytest.mark.parametrize("name", ["root", "no such user"])
def test_impossible_users(name):
    with pytest.raises(OsUserError) as caught:
        server_os_user(None, name=name)
    assert caught.value.remedy


@as_root
def test_programs_run_as_the_user(nobody):
    result = run_as(nobody, ["sh", "-c", "id -u; id -g; echo $HOME $USER; pwd"])
    assert result.stdout.split() == [str(nobody.uid), str(nobody.gid), nobody.home, "nobody", "/"]


def test_environment_of_the_current_user_is_untouched():
    assert user_environment(None, {"HOME": "/x"}) == {"HOME": "/x"}


@as_root
def test_closed_parent_is_named(tmp_path, nobody):
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    # pytest's own directories are closed too; open them for this one.
    for parent in (tmp_path, *tmp_path.parents):
        if parent.stat().st_mode & 0o001:
            break
        parent.chmod(0o711)
    assert not can_access(nobody, closed / "file", "-r")
    with pytest.raises(UnreachablePathError, match=rf"nobody: it may not search {closed}$"):
        require_reachable(nobody, closed / "file", "the file")


def test_reachable_path(tmp_path):
    require_reachable(None, tmp_path / "not there yet" / "file", "the file")
