"""Each defect that is planted in a real cluster is found, and gone once its remedy is applied."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

import pytest

from tde.doctor import Group, MachineFiles, Verdict
from tde.errors import ClusterKeystoreError, UnsupportedServerError
from tde.keystore import Keystore
from tde.keystore.auto_opening import bind_auto_open, disable_all
from tde.keystore.providers.auto_open import auto_open_path
from tde.machine import checks
from tde.postgres import Cluster, PostgresBinaries, Scope, run_program
from tde.postgres.cluster.marker import Marker
from tde.postgres.server.interposer import GUARD_FILE
from tests.doctor.examination import examine, only, require_healthy, require_ok
from tests.doctor.machine_tree import Machine
from tests.keystore.cheap_passphrase import PASSPHRASE

# Some defects are those of files on a disk that is not encrypted.
pytestmark = pytest.mark.on_disk


def test_a_running_cluster_without_defects_is_healthy(running):
    report = examine(running, tuple(Group))
    require_healthy(report)
    assert report.pid == running.cluster.pid
    assert report.settings_source == "the running server"
    assert "interposer in its memory" in report.named("server")[0].detail
    assert re.search("has locked|no other process", report.named("locked_memory")[0].detail)
    json.dumps(report.as_json())


def test_a_stopped_cluster_without_defects_is_healthy(stopped):
    # Neither is a passphrase needed, nor anything left of the keys made for the purpose.
    report = examine(stopped, tuple(Group))
    require_healthy(report)
    assert report.settings_source == "the configuration files"
    assert list(Path("/tmp").glob(f"tde-doctor-{os.getpid()}-*")) == []


def unhandled_server(directory: Path, real: PostgresBinaries) -> PostgresBinaries:
    """Make a working server whose program imports a call that is not handled."""
    bindir = directory / "bin"
    bindir.mkdir()
    for program in real.bindir.iterdir():
        if program.name != "postgres":
            (bindir / program.name).symlink_to(program)
    source = directory / "server.c"
    source.write_text(
        "#define _GNU_SOURCE\n#include <fcntl.h>\n#include <unistd.h>\n"
        "int main(int argc, char **argv) {\n"
        "    if (argc == 9999) vmsplice(1, 0, 0, 0);\n"
        f'    argv[0] = "{real.bindir}/postgres";\n'
        "    return execv(argv[0], argv);\n}\n"
    )
    subprocess.run(["cc", str(source), "-o", str(bindir / "postgres")], check=True)
    for path in (directory, bindir):
        path.chmod(0o755)
    return PostgresBinaries(bindir, real.version)


def test_a_program_with_an_unhandled_call(stopped, os_user_tmp_path):
    real = stopped.cluster.binaries
    other = unhandled_server(os_user_tmp_path, real)
    found = only(examine(stopped, [Group.PROGRAM], binaries=other), "file_calls", Verdict.PROBLEM)
    assert "vmsplice" in found.detail
    # A start refuses it with the same words.
    cluster = Cluster(stopped.data_directory, other, os_user=stopped.cluster.os_user)
    with pytest.raises(UnsupportedServerError, match="vmsplice") as caught:
        cluster.start(stopped.keystore)
    assert (str(caught.value), caught.value.remedy) == (found.detail, found.remedy)
    require_ok(examine(stopped, [Group.PROGRAM], binaries=real), "file_calls")


def test_a_program_that_ignores_the_preload(stopped, os_user_tmp_path):
    real = stopped.cluster.binaries
    bindir = os_user_tmp_path / "bin"
    bindir.mkdir()
    source = os_user_tmp_path / "server.c"
    source.write_text("int main(void) { return 0; }\n")
    subprocess.run(["cc", "-static", str(source), "-o", str(bindir / "postgres")], check=True)
    report = examine(stopped, [Group.PROGRAM], binaries=PostgresBinaries(bindir, real.version))
    assert "LD_PRELOAD" in only(report, "preload", Verdict.PROBLEM).remedy
    assert "statically linked" in only(report, "file_calls", Verdict.PROBLEM).detail
    require_ok(examine(stopped, [Group.PROGRAM]), "preload")


def test_io_uring_is_a_problem(stopped, settings):
    if stopped.cluster.binaries.major < 18:
        pytest.skip("io_method came with PostgreSQL 18")
    settings("io_method = io_uring")
    found = only(examine(stopped), "io_settings", Verdict.PROBLEM)
    assert "io_uring" in found.detail
    assert "Set io_method to worker or sync" in found.remedy
    for value in ("worker", "sync"):
        settings(f"io_method = {value}")
        require_ok(examine(stopped), "io_settings")


def test_shared_memory_in_files(stopped, settings):
    settings("dynamic_shared_memory_type = mmap")
    found = only(examine(stopped), "io_settings", Verdict.PROBLEM)
    with pytest.raises(UnsupportedServerError) as caught:
        stopped.start()
    assert str(caught.value) == found.detail
    settings("dynamic_shared_memory_type = posix")
    require_ok(examine(stopped), "io_settings")


def test_a_configuration_with_an_error(stopped, settings):
    settings("full_page_writes = perhaps")
    report = examine(stopped)
    assert "full_page_writes" in only(report, "configuration", Verdict.PROBLEM).detail
    assert only(report, "full_page_writes", Verdict.UNKNOWN)
    settings("full_page_writes = off")
    assert only(examine(stopped), "full_page_writes", Verdict.WARNING)
    settings("full_page_writes = on")
    require_ok(examine(stopped), "full_page_writes")


def test_checksums_that_are_off(stopped, settings):
    data = str(stopped.data_directory)

    def pg_checksums(action: str) -> None:
        run = run_program(
            stopped.cluster.binaries,
            "pg_checksums",
            [action, "-D", data],
            keystore=stopped.keystore,
            os_user=stopped.cluster.os_user,
        )
        assert run.returncode == 0, run.stderr

    pg_checksums("--disable")
    report = examine(stopped)
    remedy = only(report, "checksums", Verdict.PROBLEM).remedy
    assert f"tde pg exec -D {data} pg_checksums --enable -D {data}" in remedy
    assert only(report, "wal_log_hints", Verdict.WARNING)
    settings("wal_log_hints = on")
    require_ok(examine(stopped), "wal_log_hints")
    # Without its marker the cluster is taken for a plain one, and the stock program would be fatal.
    marker = stopped.data_directory / "tde.json"
    marker.rename(marker.with_suffix(".away"))
    try:
        remedy = only(examine(stopped), "checksums", Verdict.PROBLEM).remedy
    finally:
        marker.with_suffix(".away").rename(marker)
    assert "pg_checksums" not in remedy
    assert "Encryption" in remedy
    pg_checksums("--enable")
    require_ok(examine(stopped), "checksums")


def test_a_readable_keystore(stopped):
    keystore = stopped.keystore.path
    for path in (keystore, keystore / "keystore.json", keystore / "keys" / "wal.key"):
        path.chmod(path.stat().st_mode | 0o044)
    found = only(examine(stopped), "keystore", Verdict.PROBLEM)
    assert "(and 2 more)" in found.detail
    subprocess.run(found.remedy, shell=True, check=True)
    require_ok(examine(stopped), "keystore")
    (keystore / "keys" / "wal.key").chmod(0o640)
    found = only(examine(stopped), "keystore", Verdict.PROBLEM)
    assert "wal.key" in found.detail
    subprocess.run(found.remedy, shell=True, check=True)
    require_ok(examine(stopped), "keystore")


def test_a_keystore_that_travels_with_the_data(stopped):
    outside = stopped.keystore.path
    inside = stopped.data_directory / "keystore"
    outside.rename(inside)
    try:
        found = only(examine(stopped, keystore=inside), "keystore", Verdict.PROBLEM)
        assert "overlap" in found.detail
        with (
            Keystore.open(inside, PASSPHRASE) as moved,
            pytest.raises(ClusterKeystoreError, match="overlap"),
        ):
            stopped.cluster.start(moved)
        link = stopped.data_directory / "pg_tblspc" / "16999"
        inside.rename(outside)
        link.symlink_to(outside.parent / "space")
        (outside.parent / "space").mkdir()
        outside.rename(outside.parent / "space" / "keystore")
        report = examine(stopped, keystore=outside.parent / "space" / "keystore")
        assert "overlap" in only(report, "keystore", Verdict.PROBLEM).detail
        (outside.parent / "space" / "keystore").rename(outside)
        link.unlink()
    finally:
        if inside.exists():
            inside.rename(outside)
    require_ok(examine(stopped), "keystore")


def test_every_start_warns_of_the_machine(stopped, tmp_path, monkeypatch, caplog):
    machine = Machine(tmp_path)
    machine.device("vdb")
    machine.swap("/dev/vdb")
    monkeypatch.setattr(checks, "MachineFiles", lambda: MachineFiles(tmp_path))
    stopped.start()
    stopped.cluster.stop("immediate")
    assert "swapoff /dev/vdb" in caplog.text


def test_a_keystore_that_is_missing_or_another(stopped, module_cluster_factory):
    report = examine(stopped, keystore=stopped.keystore.path.with_name("nowhere"))
    found = only(report, "keystore", Verdict.PROBLEM)
    assert "no keystore" in found.detail
    # A new one would not open this cluster.
    assert "Mount its file system" in found.remedy
    assert "keystore create" not in found.remedy
    other = module_cluster_factory.keystore("other")
    report = examine(stopped, keystore=other.path)
    assert "another cluster's" in only(report, "keystore", Verdict.PROBLEM).detail


def test_a_keystore_whose_rotation_was_interrupted(stopped):
    left = stopped.keystore.path / "keys.old"
    left.mkdir(mode=0o700)
    found = only(examine(stopped), "keystore", Verdict.WARNING)
    left.rmdir()
    assert "a rotation of the master key" in found.detail
    assert f"tde keystore rotate --keystore {stopped.keystore.path}" in found.remedy
    require_ok(examine(stopped), "keystore")


def test_a_keystore_that_opens_by_itself(stopped):
    stopped.keystore.enable_auto_open()
    assert "auto-open disable" in only(examine(stopped), "auto_open", Verdict.WARNING).remedy
    auto_open_path(stopped.keystore.path).unlink()
    require_ok(examine(stopped), "auto_open")
    secret = stopped.keystore.path.with_name("host.key")
    bind_auto_open(stopped.keystore, "host-secret", {"file": str(secret)}, "full")
    found = only(examine(stopped), "auto_open", Verdict.WARNING)
    assert "on the same file system as the keystore" in found.detail
    disable_all(stopped.keystore.path)
    require_ok(examine(stopped), "auto_open")


def test_a_start_without_tde_that_is_not_stopped(stopped):
    data = stopped.data_directory
    (data / GUARD_FILE).touch()
    found = only(examine(stopped), "encryption", Verdict.PROBLEM)
    subprocess.run(found.remedy.removeprefix("Remove it: "), shell=True, check=True)
    require_ok(examine(stopped), "encryption")
    config = data / "postgresql.conf"
    before = config.read_text()
    config.write_text(before.replace(f"include {GUARD_FILE}\n", ""))
    found = only(examine(stopped), "encryption", Verdict.PROBLEM)
    with config.open("a") as file:
        file.write(found.remedy.rpartition(": ")[2] + "\n")
    require_ok(examine(stopped), "encryption")
    config.write_text(before)


def test_a_marker_that_is_missing_or_damaged(stopped):
    marker = stopped.data_directory / "tde.json"
    before = marker.read_text()
    marker.unlink()
    report = examine(stopped)
    assert "tde.json is missing" in only(report, "encryption", Verdict.PROBLEM).detail
    assert report.settings_source  # The guard alone tells how the files have to be read.
    marker.write_text("{}")
    report = examine(stopped)
    assert "tde.json" in only(report, "encryption", Verdict.PROBLEM).detail
    assert only(report, "keystore", Verdict.UNKNOWN)
    marker.write_text(before)
    require_ok(examine(stopped), "encryption")


def test_a_data_directory_that_is_open_to_others(stopped):
    stopped.data_directory.chmod(0o755)
    found = only(examine(stopped), "data_directory", Verdict.PROBLEM)
    subprocess.run(found.remedy, shell=True, check=True)
    require_ok(examine(stopped), "data_directory")


def test_a_server_that_runs_without_encryption(module_cluster_factory, any_binaries, running):
    plain = module_cluster_factory.plain(any_binaries, name="plain")
    report = examine(plain)
    assert only(report, "encryption", Verdict.WARNING)
    require_ok(report, "server")
    # As if somebody had removed the guard and started an encrypted cluster.
    keystore = running.keystore
    Marker(keystore.uuid, keystore.path, Scope.CLUSTER).write(
        plain.data_directory, plain.cluster.os_user
    )
    report = examine(plain, (Group.MACHINE, Group.CLUSTER))
    assert "WITHOUT" in only(report, "server", Verdict.PROBLEM).detail
    assert "has not locked" in only(report, "locked_memory", Verdict.PROBLEM).detail
    (plain.data_directory / "tde.json").unlink()
    require_ok(examine(plain), "server")


def test_a_server_that_lets_nobody_in(running):
    hba = running.data_directory / "pg_hba.conf"
    before = hba.read_text()
    hba.write_text("local all all reject\n")
    reload = [str(running.cluster.binaries.program("pg_ctl")), "reload", "-D"]
    user = running.cluster.os_user
    as_owner = {} if user is None else {"user": user.uid, "group": user.gid, "extra_groups": []}
    subprocess.run([*reload, running.data_directory], check=True, cwd="/", **as_owner)
    report = examine(running)
    assert "may differ" in only(report, "configuration", Verdict.WARNING).detail
    assert report.settings_source == "the configuration files"
    hba.write_text(before)
    subprocess.run([*reload, running.data_directory], check=True, cwd="/", **as_owner)
    require_ok(examine(running), "configuration")


def test_who_has_a_plain_cluster_is_not_told_to_stop_its_server(
    module_cluster_factory, any_binaries
):
    """The line that stops a start without tde stopped the server of a plain cluster for good."""
    plain = module_cluster_factory.plain(any_binaries, name="plain-elsewhere", start=False)
    (plain.data_directory / "postgresql.conf").rename(plain.data_directory.parent / "moved.conf")
    found = only(examine(plain), "encryption", Verdict.WARNING)
    assert found.detail == "this cluster is not encrypted"
    assert "include" not in found.remedy
