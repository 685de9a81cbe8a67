"""A server encrypts with the fastest OpenSSL at hand, and starts whatever becomes of that file."""

from __future__ import annotations

import ctypes
import random
from pathlib import Path

from tde import _core
from tde.doctor import doctor
from tde.page import libcrypto
from tde.postgres import install_bin_directory
from tde.postgres.server.published import read_published_status
from tde.postgres.server.reachable import LIBCRYPTO_NAME
from tests.postgres.crashes.file_rewrites import kill_backend, wait_until_ready, wait_until_reaped
from tests.second_libcrypto import needs_second_libcrypto

ROWS = "SELECT count(*), md5(string_agg(x, '' ORDER BY n)) FROM t"


def used(made) -> str:
    """Return the file of the libcrypto that a server publishes."""
    return read_published_status(made.cluster.pid).libcrypto


def is_of_system(made) -> bool:
    return Path(used(made)).name.startswith("libcrypto.so.")


@needs_second_libcrypto
def test_both_libraries_read_what_the_other_has_written(
    encrypted_cluster_factory, binaries, monkeypatch
):
    made = encrypted_cluster_factory(binaries)
    assert not is_of_system(made)
    made.query(
        "CREATE TABLE t AS SELECT n, repeat('x', n % 900) AS x FROM generate_series(1, 5000) n"
    )
    before = made.query(ROWS)
    made.cluster.stop()
    monkeypatch.setenv(libcrypto.VARIABLE, "system")
    made.start()
    assert is_of_system(made)
    assert made.query(ROWS) == before
    made.query("UPDATE t SET x = x || 'y'")
    before = made.query(ROWS)
    made.cluster.stop()
    monkeypatch.delenv(libcrypto.VARIABLE)
    made.start()
    assert made.query(ROWS) == before


@needs_second_libcrypto
def test_a_running_server_does_not_need_the_file(
    encrypted_cluster_factory, any_binaries, os_user_tmp_path, monkeypatch
):
    made = encrypted_cluster_factory(any_binaries, start=False)
    found = libcrypto.find_libcrypto()
    assert found is not None
    copy = os_user_tmp_path / "libcrypto.so.3"
    copy.write_bytes(found.read_bytes())
    copy.chmod(0o644)
    monkeypatch.setenv(libcrypto.VARIABLE, str(copy))
    made.start({"restart_after_crash": "on"})
    assert used(made) == str(copy)
    copy.unlink()
    made.query("CREATE TABLE t AS SELECT n, 'x' AS x FROM generate_series(1, 5000) n")
    # Nor do those who tell which one it is.
    version = libcrypto_version(found)
    report = doctor(made.data_directory, any_binaries, keystore=made.keystore.path)
    assert f"the server encrypts with {version}" in {f.detail for f in report.named("openssl")}
    status = made.cluster.status()
    assert (status.libcrypto, status.libcrypto_version) == (copy, version)
    assert status.as_json()["libcrypto"] == str(copy)
    before = made.query(ROWS)
    # All processes are new ones after that, but the postmaster.
    wait_until_reaped(kill_backend(made.cluster.pid, random.Random(1)))
    wait_until_ready(made)
    assert made.query(ROWS) == before
    made.cluster.stop()
    position = made.cluster.default_log.stat().st_size
    made.start()
    assert made.query(ROWS) == before
    with made.cluster.default_log.open() as log:
        log.seek(position)
        said = [line for line in log if line.startswith("tde: ")]
    assert len(said) == 1
    assert f"WARNING: the library {copy} cannot encrypt pages" in said[0]
    assert is_of_system(made)


@needs_second_libcrypto
def test_programs_have_a_copy_unless_there_is_none_to_be_had(
    keystore_factory, any_binaries, os_user_tmp_path, os_user, monkeypatch
):
    keystore = keystore_factory("ks")
    keystore.enable_auto_open()
    found = libcrypto.find_libcrypto()
    assert found is not None
    content = found.read_bytes()
    copy = os_user_tmp_path / "bin" / LIBCRYPTO_NAME
    for named, copied in (("", True), ("system", False), (str(found), True), ("/missing", False)):
        monkeypatch.setenv(libcrypto.VARIABLE, named)
        install_bin_directory(os_user_tmp_path / "bin", any_binaries, os_user, keystore=keystore)
        assert copy.exists() == copied, named
        assert not copied or copy.read_bytes() == content


def libcrypto_version(path: Path) -> str:
    function = ctypes.CDLL(str(path)).OpenSSL_version
    function.restype = ctypes.c_char_p
    text: bytes = function(0)
    return text.decode()


@needs_second_libcrypto
def test_the_doctor_says_which_one_encrypts(
    encrypted_cluster_factory, any_binaries, os_user_tmp_path, monkeypatch
):
    made = encrypted_cluster_factory(any_binaries, start=False)
    found = libcrypto.find_libcrypto()
    assert found is not None
    named = os_user_tmp_path / "another.so"
    named.write_bytes(found.read_bytes())
    for wanted, server in (
        ("", libcrypto_version(found)),
        (str(named), libcrypto_version(found)),
        ("/missing", _core.linked_openssl_version()),
        ("system", _core.linked_openssl_version()),
    ):
        monkeypatch.setenv(libcrypto.VARIABLE, wanted)
        report = doctor(made.data_directory, any_binaries, keystore=made.keystore.path)
        details = [finding.detail for finding in report.named("openssl")]
        assert f"tde uses {_core.linked_openssl_version()}" in details
        assert any("GB/s with AES-256" in detail for detail in details)
        (last,) = [detail for detail in details if detail.startswith("a server would encrypt")]
        assert server in last, wanted
