"""What the owner of a cluster's configuration puts there, when root registers and unregisters it.

Debian's /etc/postgresql belongs to the server's user, who must gain nothing by what root does.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from tde.errors import DataDirectoryError, TdeError
from tde.postgres.cluster.bin_directory import install_bin_directory, remove_bin_directory
from tde.postgres.cluster.marker import Marker
from tde.postgres.cluster.scope import Scope
from tde.postgres.server.binaries import STAND_IN_SETTINGS, list_binaries
from tde.postgres.server.debian_layout import DebianCluster
from tde.postgres.service import diversion, pg_ctl_options, registration
from tde.postgres.service.pg_ctl_options import OPTIONS_FILE, PgCtlOptions
from tde.postgres.service.places import default_directory
from tde.postgres.service.registration import registered_programs, unregister_cluster
from tests.postgres.service.debian import Site

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="root is who is misled")

SECRET = "pg_ctl_options = '-p /srv/stand-ins/postgres'\nroot:secret\n"


@pytest.fixture
def cluster(os_user_tmp_path, os_user, monkeypatch) -> DebianCluster:
    """The files of a cluster that say enough for a registration; there is no server."""
    site = Site.make(os_user_tmp_path, os_user)
    monkeypatch.setenv("PG_CLUSTER_CONF_ROOT", str(site.root / "etc"))
    directory, data = site.root / "etc" / "15" / "main", site.data("main")
    for made in (directory.parent, directory, data):
        made.mkdir()
        os.chown(made, os_user.uid, os_user.gid)
    (directory / "postgresql.conf").write_text(f"data_directory = '{data}'\n")
    return DebianCluster(15, "main", directory, data)


@pytest.fixture
def own_stand_ins(cluster, os_user) -> Path:
    """A directory of the server's user that looks like one of tde's, named in pg_ctl.conf."""
    directory = cluster.directory / "bin"
    directory.mkdir()
    (directory / STAND_IN_SETTINGS).touch()
    for path in (directory, directory / STAND_IN_SETTINGS):
        os.chown(path, os_user.uid, os_user.gid)
    _name_server(cluster, os_user.uid, f"-p {directory}/postgres")
    return directory


def _name_server(cluster: DebianCluster, uid: int, words: str) -> Path:
    options = cluster.directory / OPTIONS_FILE
    options.write_text(f"pg_ctl_options = '{words}'\n")
    os.chown(options, uid, -1)
    return options


def test_no_copy_of_a_file_of_roots_is_made(cluster, tmp_path, monkeypatch):
    secret = tmp_path / "shadow"
    secret.write_text(SECRET)
    secret.chmod(0o600)
    options = cluster.directory / OPTIONS_FILE
    options.symlink_to(secret)
    monkeypatch.setattr(pg_ctl_options, "is_bin_directory", lambda directory: True)
    with pytest.raises(DataDirectoryError, match="is a link"):
        unregister_cluster(cluster)
    assert options.is_symlink()
    assert secret.read_text() == SECRET


def test_a_pipe_does_not_stop_root(cluster, os_user):
    pipe = cluster.directory / OPTIONS_FILE
    os.mkfifo(pipe)
    os.chown(pipe, os_user.uid, os_user.gid)
    with pytest.raises(DataDirectoryError, match="not a regular file"):
        registered_programs(cluster)


def test_root_puts_stand_ins_where_the_owner_has_no_say(
    cluster, own_stand_ins, monkeypatch: pytest.MonkeyPatch
):
    """Root writes and changes modes there, and the owner may put a link in the place meanwhile."""
    Marker(uuid4(), Path("/srv/other"), Scope.CLUSTER).write(cluster.data_directory, None)
    asked: list[dict[str, object]] = []
    register: Callable[..., None] = lambda *cluster, **more: asked.append(more)  # noqa: E731
    monkeypatch.setattr(registration, "register_cluster", register)
    assert registered_programs(cluster) == own_stand_ins
    assert diversion._settle_clusters(15, uuid4()) == ()
    assert [more["directory"] for more in asked] == [default_directory(cluster)]


@pytest.mark.parametrize(
    ("words", "left"),
    [
        ("-p /srv//bin/postgres -t 61", "-t 61"),
        ("-t 61 -p/a/postgres -p /srv/bin/postgres", "-t 61"),
        ("-w -p", "-w -p"),
    ],
)
def test_every_server_program_is_taken_out(cluster, os_user, words: str, left: str):
    """pg_ctl goes by the last one, and one that stays alone is a word that it refuses."""
    options = _name_server(cluster, os_user.uid, words)
    PgCtlOptions.of(cluster.directory).without_server().write()
    assert options.read_text() == f"pg_ctl_options = '{left}'\n"


def test_one_owner_leaves_no_cluster_of_others_without_a_server(
    cluster, own_stand_ins, os_user, monkeypatch: pytest.MonkeyPatch
):
    """Clusters are adapted in the order of their names, and may belong to several users."""
    hostile = cluster.directory.with_name("a")
    data = cluster.data_directory.with_name("a")
    for made in (hostile, data):
        made.mkdir()
        os.chown(made, os_user.uid, os_user.gid)
    (hostile / "postgresql.conf").write_text(f"data_directory = '{data}'\n")
    pipe = hostile / registration.OPTIONS_FILE
    os.mkfifo(pipe)
    os.chown(pipe, os_user.uid, os_user.gid)
    Marker(uuid4(), Path("/srv/other"), Scope.CLUSTER).write(cluster.data_directory, None)
    asked: list[DebianCluster] = []
    monkeypatch.setattr(diversion, "register_again", lambda _record, one: asked.append(one))
    with pytest.raises(TdeError, match=r"15/a: .*not a regular file"):
        diversion._settle_clusters(15, uuid4())
    assert asked == [cluster]
    os.mkfifo(data / "tde.json")
    assert diversion.encrypted_clusters() == [
        replace(cluster, name="a", directory=hostile, data_directory=data),
        cluster,
    ]


def test_the_name_of_a_keystore_is_no_setting_of_roots(keystore_factory, os_user_tmp_path, os_user):
    """The marker that names the keystore is the server user's, and so is what `bindir` then was."""
    keystore = keystore_factory("ks\nbindir=other")
    keystore.enable_auto_open()
    with pytest.raises(TdeError, match="line break"):
        install_bin_directory(
            os_user_tmp_path / "bin", list_binaries()[0], os_user, keystore=keystore
        )
    assert not (os_user_tmp_path / "bin" / STAND_IN_SETTINGS).exists()


@pytest.mark.parametrize("step", range(1, 30, 4))
def test_what_an_interrupted_removal_has_left_is_in_nobodys_way(
    keystore_factory, os_user_tmp_path, os_user, monkeypatch: pytest.MonkeyPatch, step: int
):
    keystore = keystore_factory("ks")
    keystore.enable_auto_open()
    directory = os_user_tmp_path / "bin"
    install = partial(
        install_bin_directory, directory, list_binaries()[0], os_user, keystore=keystore
    )
    install()
    real, steps = os.unlink, iter(range(step))

    def unlink(*words: Any, **more: Any) -> None:
        if next(steps, None) is None:
            raise KeyboardInterrupt
        real(*words, **more)

    with monkeypatch.context() as patched, suppress(KeyboardInterrupt):
        patched.setattr(os, "unlink", unlink)
        remove_bin_directory(directory)
    assert "postgres" in install().with_keys
    for path in directory.iterdir():
        path.unlink()
    (directory / ".tde-unfinished-x").write_bytes(b"half of a file")
    assert "postgres" in install().with_keys


def test_the_programs_of_a_version_are_nobodys_leftovers(tmp_path: Path, monkeypatch) -> None:
    """A cluster may be registered with --bin and the directory of its whole version."""
    monkeypatch.setattr(registration, "own_place", lambda: tmp_path)
    for name, is_removed in (("15", False), ("15-main", True)):
        programs = tmp_path / name
        programs.mkdir()
        (programs / STAND_IN_SETTINGS).touch()
        assert registration._remove_own(programs) == is_removed
        assert programs.exists() != is_removed
