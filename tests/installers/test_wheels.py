"""The wheels and the sdist of `make wheel`, each installed where nothing of a checkout is seen."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tde.postgres.server.os_user import run_as
from tests.conftest import SERVER_OPTIONS
from tests.keystore.cheap_passphrase import PASSPHRASE

_BUILT = Path(__file__).parents[2] / "build" / "dist"
_SYSROOT = _BUILT / "sysroot-arm64"
_QEMU = shutil.which("qemu-aarch64-static") or shutil.which("qemu-aarch64")
_GOLDEN = Path(__file__).parents[1] / "golden"

# Reads the page of the format's golden files, so the result is that of every other machine.
_READ_GOLDEN = """
import hashlib, json, sys
from tde import Fork, PageCipher, RelationIdentity
entry, path = json.loads(sys.argv[1]), sys.argv[2]
identity = RelationIdentity(entry["identity"]["database"], entry["identity"]["relfilenumber"])
with PageCipher(bytes.fromhex(entry["key"]), algorithm=entry["algorithm"]) as cipher:
    plain = cipher.decrypt_pages(
        open(path, "rb").read(), identity=identity, first_block=entry["first_block"]
    )
print(hashlib.sha256(plain).hexdigest() == entry["plaintext_sha256"])
"""


def _wheel(architecture: str) -> Path:
    found = sorted(_BUILT.glob(f"tde-*-manylinux_*_{architecture}.whl"))
    if not found:
        pytest.skip(f"there is no wheel for {architecture}; run: make wheel, make wheel-aarch64")
    return found[-1]


pytestmark = [pytest.mark.slow]


def _run(*command: object, **arguments: object) -> str:
    done = subprocess.run(
        [str(word) for word in command],
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
        **arguments,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def _install(directory: Path, package: Path) -> Path:
    """Install a package in a new environment, and return its directory of programs."""
    _run(sys.executable, "-m", "venv", directory)
    _run(directory / "bin/python", "-m", "pip", "install", "-q", package, cwd="/")
    return directory / "bin"


def _needed(library: Path) -> set[str]:
    lines = _run("readelf", "-d", library).splitlines()
    return {line.split("[")[1].rstrip("]") for line in lines if "(NEEDED)" in line}


def _golden(name: str) -> tuple[str, Path]:
    entries = json.loads((_GOLDEN / "manifest.json").read_text())
    entry = next(entry for entry in entries if entry["file"] == name)
    return json.dumps(entry), _GOLDEN / name


@pytest.mark.parametrize("architecture", ["x86_64", "aarch64"])
def test_a_wheel_has_all_parts_and_no_libcrypto(tmp_path, architecture):
    with zipfile.ZipFile(_wheel(architecture)) as wheel:
        wheel.extractall(tmp_path)
    names = {path.name for path in tmp_path.rglob("*") if path.is_file()}
    assert not [name for name in names if name.startswith(("libcrypto", "libssl"))]
    module = next((tmp_path / "tde").glob("_core.*.so"))
    for file in (module, tmp_path / "tde/libtde_io.so", tmp_path / "tde/tde_program"):
        loader = {"x86_64": "ld-linux-x86-64.so.2", "aarch64": "ld-linux-aarch64.so.1"}
        assert _needed(file) <= {"libcrypto.so.3", "libc.so.6", loader[architecture]}
        described = _run("readelf", "-h", file)
        assert {"x86_64": "X86-64", "aarch64": "AArch64"}[architecture] in described
    assert architecture in module.name
    assert (tmp_path / "tde/extension_sources/extension").is_dir()


@pytest.mark.parametrize("kind", ["wheel", "sdist"])
def test_an_installed_package_runs_an_encrypted_cluster(
    kind, os_user_tmp_path, os_user, keystore_factory, any_binaries
):
    sdists = sorted(_BUILT.glob("tde-*.tar.gz"))
    if kind == "sdist" and not sdists:
        pytest.skip("there is no sdist; run: make wheel")
    package = _wheel(platform.machine()) if kind == "wheel" else sdists[-1]
    programs = _install(os_user_tmp_path / "environment", package)
    assert _run(programs / "tde", "--version", cwd="/").startswith("tde ")
    entry, path = _golden("v1-relation-aes256.bin")
    assert _run(programs / "python", "-c", _READ_GOLDEN, entry, path, cwd="/") == "True\n"
    keystore = keystore_factory()
    keystore.enable_auto_open()
    bindir = os_user_tmp_path / "bin"
    # The first keys of a keystore take its passphrase.
    _run(
        *(programs / "tde", "pg", "install-bin", bindir, "--keystore", keystore.path),
        *("--bindir", any_binaries.bindir, "--passphrase-fd", 0),
        input=PASSPHRASE.decode(),
        cwd="/",
    )
    data = os_user_tmp_path / "data"
    _initdb_and_one_row(bindir, data, os_user)
    assert b"canary-of-the-wheel" not in b"".join(
        file.read_bytes() for file in data.rglob("*") if file.is_file()
    )


def _initdb_and_one_row(bindir, data, os_user):
    """Use the stand-ins of an installed wheel as an init script does."""
    sockets = data.parent / "sockets"
    sockets.mkdir()
    if os_user is not None:
        os.chown(sockets, os_user.uid, os_user.gid)
    options = "".join(
        f" -c {name}={value or chr(39) * 2}" for name, value in SERVER_OPTIONS.items()
    )
    start = ["start", "-w", "-D", data, "-l", data.parent / "log"]
    commands = [
        ["initdb", "-D", data, "--no-sync", "-A", "trust"],
        ["pg_ctl", *start, "-o", f"-k {sockets}{options}"],
        [
            *("psql", "-h", sockets, "-d", "postgres", "-c"),
            "CREATE TABLE t AS SELECT 'canary-of-the-wheel'::text; CHECKPOINT",
        ],
        ["pg_ctl", "stop", "-w", "-D", data, "-m", "fast"],
    ]
    for program, *arguments in commands:
        done = run_as(os_user, [bindir / program, *arguments], cwd=Path("/"))
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.skipif(_QEMU is None, reason="there is no qemu-user")
def test_the_wheel_for_arm_reads_the_golden_pages_there(tmp_path):
    with zipfile.ZipFile(_wheel("aarch64")) as wheel:
        wheel.extractall(tmp_path)
    python = next((_SYSROOT / "usr/bin").glob("python3.[0-9]*"))
    emulated = [_QEMU, "-L", _SYSROOT]
    entry, path = _golden("v1-relation-aes256.bin")
    environment = {"PYTHONPATH": str(tmp_path), "PATH": "/usr/bin"}
    shown = _run(*emulated, python, "-c", _READ_GOLDEN, entry, path, env=environment, cwd="/")
    assert shown == "True\n"
    # The library loads there, and what is none of PostgreSQL's programs runs as without it.
    preload = f"LD_PRELOAD={tmp_path / 'tde/libtde_io.so'}"
    maps = "print('libtde_io.so' in open('/proc/self/maps').read())"
    assert _run(*emulated, "-E", preload, python, "-c", maps, cwd="/") == "True\n"
    (tmp_path / "tde/tde_program").chmod(0o755)
    refused = subprocess.run(
        [*map(str, emulated), str(tmp_path / "tde/tde_program")], capture_output=True, text=True
    )
    assert "tde-bin.conf" in refused.stderr
