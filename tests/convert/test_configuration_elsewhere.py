"""Clusters whose servers begin with a configuration file outside of PGDATA, as Debian's do.

The guard stops a stock start in whatever file it uses; what cannot be guarded is refused before
anything is changed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tde.doctor import Group, Verdict
from tde.errors import ConversionError
from tde.keystore import inspect_keystore
from tde.postgres import Cluster, decrypt_cluster, doctor, encrypt_cluster
from tde.postgres.server.interposer import GUARD_FILE
from tde.postgres.server.os_user import run_as
from tests.convert.conversions import content

LINE = f"include {GUARD_FILE}\n"
OPTIONS = {"listen_addresses": "", "fsync": "off"}


class Debian:
    """A cluster as pg_createcluster makes it: configuration in /etc, data elsewhere."""

    def __init__(self, cluster: Cluster, root: Path) -> None:
        self.cluster = cluster
        self.root = root
        self.directory = root / "15" / "main"
        self.file = self.directory / "postgresql.conf"
        self.directory.mkdir(parents=True)
        data = cluster.data_directory
        for name in ("postgresql.conf", "pg_hba.conf", "pg_ident.conf"):
            shutil.move(data / name, self.directory / name)
        (self.directory / "conf.d").mkdir()
        with self.file.open("a") as file:
            file.write(
                f"data_directory = '{data}'\t# use data in another directory\n"
                f"hba_file = '{self.directory}/pg_hba.conf'\n"
                f"ident_file = '{self.directory}/pg_ident.conf'\n"
                "include_dir = 'conf.d'\n"
            )
        self.own(*root.rglob("*"))

    def own(self, *paths: Path) -> None:
        if self.cluster.os_user is not None:
            for path in paths:
                os.chown(path, self.cluster.os_user.uid, self.cluster.os_user.gid)

    def stock_start(self) -> str:
        """Start the server as pg_ctlcluster does, without tde; return its log if it stops."""
        log = self.root / "stock.log"
        log.unlink(missing_ok=True)
        socket = self.cluster.data_directory.parent
        options = f'-c config_file="{self.file}" -c listen_addresses= '
        options += f"-c unix_socket_directories={socket}"
        command = [self.cluster.binaries.program("pg_ctl"), "start", "-s", "-w", "-l", log]
        command += ["-D", self.cluster.data_directory, "-o", options]
        result = run_as(self.cluster.os_user, command)
        text = log.read_text() if log.exists() else ""
        if result.returncode == 0:
            return ""
        return text or "no log"


@pytest.fixture
def debian(copy, os_user_tmp_path, monkeypatch):
    root = os_user_tmp_path / "etc"
    root.mkdir()
    if copy.os_user is not None:
        os.chown(root, copy.os_user.uid, copy.os_user.gid)
    monkeypatch.setenv("PG_CLUSTER_CONF_ROOT", str(root))
    yield Debian(copy, root)
    if copy.pid is not None:
        copy.stop("immediate")


def refuse(copy: Cluster, keystore, match: str) -> ConversionError:
    before = content(copy.data_directory)
    with pytest.raises(ConversionError, match=match) as caught:
        encrypt_cluster(copy, keystore)
    assert caught.value.remedy
    assert content(copy.data_directory) == before
    assert inspect_keystore(keystore.path).keys == []
    return caught.value


def require_guarded(debian: Debian) -> None:
    """A stock start stops with words that name tde, and not with those that name pg_resetwal."""
    log = debian.stock_start()
    assert GUARD_FILE in log
    assert "checkpoint record" not in log
    assert debian.cluster.pid is None


def test_the_guard_stands_where_debian_looks(debian, keystore_factory):
    copy = debian.cluster
    keystore = keystore_factory()
    before = debian.file.read_bytes()
    assert debian.stock_start() == ""
    copy.stop()
    encrypt_cluster(copy, keystore)
    require_guarded(debian)

    copy.start(keystore, options=OPTIONS)  # No copy in PGDATA is needed, nor an option.
    copy.restart(keystore)
    assert copy.status().interposed
    copy.stop()
    require_guarded(debian)
    decrypt_cluster(copy, keystore)
    assert debian.file.read_bytes() == before
    assert debian.stock_start() == ""


def test_a_copy_that_debian_does_not_use_does_not_hide_the_file_that_it_does(
    debian, keystore_factory
):
    """As an earlier release told its users to do: cp /etc/.../postgresql.conf into PGDATA."""
    unused = debian.cluster.data_directory / "postgresql.conf"
    shutil.copy(debian.file, unused)
    debian.own(unused)
    keystore = keystore_factory()
    encrypt_cluster(debian.cluster, keystore)
    require_guarded(debian)
    assert LINE in unused.read_text()


def test_the_file_of_the_last_start_is_guarded(debian, keystore_factory, monkeypatch):
    assert debian.stock_start() == ""
    debian.cluster.stop()
    monkeypatch.setenv("PG_CLUSTER_CONF_ROOT", "/nowhere")
    encrypt_cluster(debian.cluster, keystore_factory())
    require_guarded(debian)


def test_the_directory_of_the_last_start_is_guarded(debian, keystore_factory, monkeypatch):
    """``postgres -D`` may name the directory of the configuration."""
    copy = debian.cluster
    opts = copy.data_directory / "postmaster.opts"
    opts.write_text(f'{copy.binaries.bindir}/postgres "-D" "{debian.directory}"\n')
    debian.own(opts)
    monkeypatch.setenv("PG_CLUSTER_CONF_ROOT", "/nowhere")
    encrypt_cluster(copy, keystore_factory())
    require_guarded(debian)


def test_a_file_that_cannot_be_told_is_refused(debian, keystore_factory, monkeypatch):
    copy = debian.cluster
    keystore = keystore_factory()
    monkeypatch.setenv("PG_CLUSTER_CONF_ROOT", "/nowhere")
    opts = copy.data_directory / "postmaster.opts"
    opts.write_text(f'{copy.binaries.bindir}/postgres "-D" "{copy.data_directory}"\n')
    assert "Start the server once" in refuse(copy, keystore, "cannot be told which file").remedy
    opts.write_text('postgres "-c" "config_file=postgresql.conf"\n')
    refuse(copy, keystore, "depends on the directory")
    opts.write_text('postgres "--config-file=/nowhere/postgresql.conf"\n')
    refuse(copy, keystore, "/nowhere/postgresql.conf, which is missing")


def test_the_configuration_of_a_cluster_that_was_copied_is_left_alone(
    original, debian, keystore_factory, monkeypatch
):
    """postmaster.opts travels with a copy, and names the files of the cluster that was copied."""
    copy = debian.cluster
    monkeypatch.setenv("PG_CLUSTER_CONF_ROOT", "/nowhere")
    theirs = original.made.data_directory / "postgresql.conf"
    before = theirs.read_bytes()
    refuse(copy, keystore_factory(), "cannot be told which file")
    opts = copy.data_directory / "postmaster.opts"
    opts.write_text(f'postgres "-D" "{original.made.data_directory}" "-c" "config_file={theirs}"\n')
    refuse(copy, keystore_factory("second"), "cannot be told which file")
    assert theirs.read_bytes() == before


def test_a_link_in_the_data_directory_is_followed(debian, keystore_factory, monkeypatch):
    copy = debian.cluster
    monkeypatch.setenv("PG_CLUSTER_CONF_ROOT", "/nowhere")
    link = copy.data_directory / "postgresql.conf"
    link.symlink_to(debian.file)
    (copy.data_directory / "conf.d").mkdir()
    debian.own(copy.data_directory / "conf.d")
    encrypt_cluster(copy, keystore_factory())
    assert link.is_symlink()
    require_guarded(debian)


def test_what_cannot_be_written_is_found_before_anything_changes(debian, keystore_factory):
    copy = debian.cluster
    keystore = keystore_factory()
    before = debian.file.read_bytes()
    debian.file.chmod(0)
    refuse(copy, keystore, "postgresql.conf cannot be read and replaced .* Permission denied")
    debian.file.chmod(0o644)
    debian.directory.chmod(0o555)
    error = refuse(copy, keystore, "postgresql.conf cannot be read and replaced .* denied")
    # The second way of the remedy: by hand. The file is then left alone.
    assert LINE.strip() in error.remedy
    debian.file.write_bytes(before + LINE.encode())
    debian.file.chmod(0o444)
    encrypt_cluster(copy, keystore)
    assert debian.file.read_bytes() == before + LINE.encode()
    require_guarded(debian)
    with pytest.raises(ConversionError, match="cannot be read and replaced"):
        decrypt_cluster(copy, keystore)
    debian.file.chmod(0o644)
    debian.directory.chmod(0o755)
    decrypt_cluster(copy, keystore)
    assert LINE not in debian.file.read_text()


def test_a_copy_that_cannot_be_read_is_found_before_anything_changes(copy, keystore_factory):
    """``cp`` by root leaves a file that the server's user may not read."""
    file = copy.data_directory / "postgresql.conf"
    file.chmod(0)
    keystore = keystore_factory()
    refuse(copy, keystore, "cannot be read and replaced by the server's user: Permission denied")
    file.chmod(0o600)
    if copy.os_user is not None:
        os.chown(file, 0, 0)
        file.chmod(0o666)
        refuse(copy, keystore, "does not belong to")
        os.chown(file, copy.os_user.uid, copy.os_user.gid)
    encrypt_cluster(copy, keystore)


def test_a_control_file_that_cannot_be_written_is_found_before_anything_changes(
    copy, keystore_factory
):
    """Its state is stored when everything else is converted."""
    (copy.data_directory / "global" / "pg_control").chmod(0o400)
    refuse(copy, keystore_factory(), "pg_control for reading and writing: Permission denied")


def test_the_next_start_guards_what_an_earlier_release_did_not(debian, keystore_factory):
    copy = debian.cluster
    keystore = keystore_factory()
    encrypt_cluster(copy, keystore)
    guarded = debian.file.read_text()
    debian.file.write_text(guarded.replace(LINE, f"# {LINE}"))
    report = doctor(copy.data_directory, copy.binaries, groups=(Group.CLUSTER,))
    (found,) = report.named("encryption")
    assert found.verdict is Verdict.PROBLEM
    assert str(debian.file) in found.detail
    assert str(debian.file) in found.remedy
    # This is what the guard is for: words that invite pg_resetwal.
    assert "could not locate a valid checkpoint record" in debian.stock_start()
    copy.start(keystore, options=OPTIONS)
    copy.stop()
    require_guarded(debian)
    report = doctor(copy.data_directory, copy.binaries, groups=(Group.CLUSTER,))
    assert [found.verdict for found in report.named("encryption")] == [Verdict.OK]


def test_debians_own_programs_still_work(debian, keystore_factory):
    """They read the file as well, and the include of a file that is missing."""
    program = shutil.which("pg_conftool")
    if program is None:
        pytest.skip("Debian's postgresql-common is not installed")
    encrypt_cluster(debian.cluster, keystore_factory())
    shown = subprocess.run(
        [program, str(debian.file), "show", "data_directory"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert str(debian.cluster.data_directory) in shown.stdout
