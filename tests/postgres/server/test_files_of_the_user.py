"""Root reads and writes what the server's user may, and appends all of a text or nothing."""

from __future__ import annotations

import errno
import os
import resource
from pathlib import Path
from threading import Thread

import pytest

from tde.postgres.server.file_user import files_as
from tde.postgres.server.owned_files import append_to_file

root_only = pytest.mark.skipif(os.geteuid() != 0, reason="only root takes the rights of others")


@root_only
def test_a_file_of_roots_group_is_not_the_users(os_user, os_user_tmp_path: Path):
    """Containers, and administrators who came by su, have root's groups besides."""
    groups = os.getgroups()
    secret = os_user_tmp_path / "secret"
    secret.write_text("for the group only")
    os.chown(secret, 0, 54321)
    secret.chmod(0o060)
    others: list[list[int]] = []
    try:
        os.setgroups([54321])
        with files_as(os_user):
            with files_as(os_user):  # The conversion's threads read configurations inside.
                pass
            with pytest.raises(PermissionError):
                secret.read_text()
            thread = Thread(target=lambda: others.append(os.getgroups()))
            thread.start()
            thread.join()
        assert os.getgroups() == [54321]
        assert secret.read_text() == "for the group only"
    finally:
        os.setgroups(groups)
    assert len(others) == 1


@root_only
def test_other_threads_keep_their_groups(os_user):
    groups = os.getgroups()
    inside: list[list[int]] = []

    def work() -> None:
        with files_as(os_user):
            inside.append(os.getgroups())

    try:
        os.setgroups([54321, 54322])
        thread = Thread(target=work)
        thread.start()
        thread.join()
        assert os.getgroups() == [54321, 54322]
    finally:
        os.setgroups(groups)
    assert inside == [sorted(set(os_user.groups))]


def test_a_full_disk_leaves_no_half_of_a_line(tmp_path: Path):
    """Half an include keeps a server from starting, and a repetition would append behind it."""
    file = tmp_path / "postgresql.conf"
    file.write_text("port = 5433\n")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (30, hard))  # Python ignores SIGXFSZ.
    try:
        with pytest.raises(OSError, match=os.strerror(errno.EFBIG)):
            append_to_file(file, "include 'tde: this cluster is encrypted'\n", None)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert file.read_text() == "port = 5433\n"
    append_to_file(file, "include 'other'\n", None)
    assert file.read_text() == "port = 5433\ninclude 'other'\n"
