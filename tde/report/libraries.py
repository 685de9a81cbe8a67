"""Which cryptographic libraries are in use, and whether a FIPS provider does the work."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from tde import _core
from tde.doctor.libcrypto import libcrypto_of_start
from tde.machine.process_files import read_process_file
from tde.ownership import is_out_of_reach
from tde.page.libcrypto import choose_libcrypto
from tde.postgres.cluster.cluster import Cluster
from tde.postgres.server.os_user import OsUser, run_as
from tde.postgres.server.published import read_published_status
from tde.report.model import Library

_FIPS = "fips"  # The name under which OpenSSL's own FIPS provider is loaded.
_SECONDS = 30
_OF_OPENSSL = ("OPENSSL_CONF", "OPENSSL_CONF_INCLUDE", "OPENSSL_MODULES")
_PROBE = Path(__file__).with_name("openssl_probe.py")
_PAGES = "pages and WAL in the server (AES-XTS)"


def libraries(cluster: Cluster) -> Iterator[tuple[str, Callable[[], Library]]]:
    """Yield what is to be looked at, that of the server first, and a function that looks."""
    yield "the OpenSSL of the server", lambda: _of_server(cluster)
    yield "the OpenSSL of the audit", _of_core
    yield "the OpenSSL of the keystore", _of_cryptography
    yield "the OpenSSL of Python", _of_python


def _of_server(cluster: Cluster) -> Library:
    pid = cluster.pid
    published = None if pid is None else read_published_status(pid)
    if pid is None or published is None:
        environment, note = dict(os.environ), "No server with keys runs: what a start would load."
        path = _library_of_start(cluster)
    else:
        path, note = published.libcrypto, ""
        environment, note = _environment_of(pid)
    found = _probed_of_server(path, environment, cluster.os_user)
    return _library(_PAGES, found, path, note)


def _library_of_start(cluster: Cluster) -> str:
    path = libcrypto_of_start(cluster.binaries, cluster.os_user)
    if path is None:
        raise FileNotFoundError(f"the loader finds no libcrypto for {cluster.binaries.bindir}")
    return str(path)


def _environment_of(pid: int) -> tuple[dict[str, str], str]:
    """Return the environment in which OpenSSL was configured, and what is not known of it."""
    kept = {name: value for name, value in os.environ.items() if name not in _OF_OPENSSL}
    try:
        content = read_process_file(pid, "environ")
    except OSError:
        return kept, (
            "The environment of a server with keys is closed to this user: it is assumed that "
            "OPENSSL_CONF and OPENSSL_MODULES are not set there. Run as root to know."
        )
    pairs = (entry.partition(b"=") for entry in content.split(b"\0"))
    servers = {os.fsdecode(name): os.fsdecode(value) for name, _, value in pairs}
    return {**kept, **{name: servers[name] for name in _OF_OPENSSL if name in servers}}, ""


def _probed(
    path: str, environment: Mapping[str, str], os_user: OsUser | None = None
) -> Mapping[str, Any]:
    """Ask a library, in a process of its own.

    Args:
        os_user: who names the library and its environment: what is loaded runs with that user's
            rights and no others.
    """
    command: list[str | Path] = [sys.executable, "-I", _PROBE, path]
    result = run_as(os_user, command, environment=environment, timeout=_SECONDS)
    if result.returncode != 0:
        reason = result.stderr.strip().splitlines()[-1:] or ["it says nothing"]
        raise OSError(f"{path} could not be asked: {reason[0]}")
    found: Mapping[str, Any] = json.loads(result.stdout)
    return found


def _probed_of_server(
    path: str, environment: Mapping[str, str], os_user: OsUser | None
) -> Mapping[str, Any]:
    try:
        return _probed(path, environment, os_user)
    except OSError:
        # That user may not reach this Python. Root may ask a library that only root can change,
        # in an environment that is root's own.
        if os_user is None or not is_out_of_reach(Path(path)):
            raise
        if any(environment.get(name) != os.environ.get(name) for name in _OF_OPENSSL):
            raise
        return _probed(path, os.environ)


def _library(used_by: str, found: Mapping[str, Any], path: str, note: str) -> Library:
    provider = found.get("provider")
    if provider is None:
        note = f"It has no AES-256-XTS. {note}".strip()
    return Library(
        used_by,
        str(found["version"]),
        path,
        provider or "",
        None if provider is None else provider == _FIPS,
        note,
    )


def _of_core() -> Library:
    """Return the libcrypto of the audit and of conversions; the process has several mapped."""
    choose_libcrypto()
    version = _core.openssl_version()
    used_by = "the audit and conversions (AES-XTS)"
    maps = Path("/proc/self/maps").read_text(errors="replace").splitlines()
    paths = {line.split(maxsplit=5)[5] for line in maps if len(line.split(maxsplit=5)) == 6}
    for path in sorted(path for path in paths if Path(path).name.startswith("libcrypto")):
        found = _probed(path, os.environ)
        if found["version"] == version:
            return _library(used_by, found, path, "")
    return Library(used_by, version, "", "", None, "The file was not found.")


def _of_cryptography() -> Library:
    import cryptography
    from cryptography.hazmat.backends.openssl.backend import backend

    enabled = getattr(backend, "_fips_enabled", None)
    return Library(
        "the keystore in tde (AES-256-GCM, Argon2id, HKDF)",
        f"{backend.openssl_version_text()}, in cryptography {cryptography.__version__}",
        str(Path(cryptography.__file__).parent),
        "",
        enabled,
        "Argon2id is no approved algorithm of FIPS 140-3: the key-encryption key of a passphrase "
        "is never derived inside a validated module.",
    )


def _of_python() -> Library:
    import _hashlib
    import ssl

    return Library(
        "codes of the key log and of this seal (HMAC-SHA256)",
        f"{ssl.OPENSSL_VERSION}, in Python",
        str(_hashlib.__file__),
        "",
        bool(_hashlib.get_fips_mode()),
    )
