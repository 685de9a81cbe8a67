"""Make the directory of programs that encrypt, with a keystore of its own, for the suites."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import sys
from pathlib import Path

from tde.postgres import OsUser
from tests.suites.sources import SuitesError, Tree

BLOCK = 8192
# pd_pagesize_version of every page that is not all zeros: 8192 bytes, layout version 4.
PAGE_MARK = (BLOCK | 4).to_bytes(2, "little")


def make_wrappers(tree: Tree, scratch: Path, user: OsUser | None) -> Path:
    """Return a directory of programs that encrypt every cluster they make.

    Raises:
        SuitesError: tde cannot make one, or a cluster made with it is not encrypted.
    """
    keystore, directory = scratch / "keystore", scratch / "bin"
    _make(scratch, user)
    install = ("pg", "install-bin", directory, "-k", keystore, "--bindir", tree.bindir)
    passphrase = ""
    if not keystore.exists():
        # Nobody needs it again: the clusters of the tests live for minutes.
        passphrase = secrets.token_urlsafe(32)
        _tde("keystore", "create", "-k", keystore, "--passphrase-fd", "0", secret=passphrase)
        enable = ("keystore", "auto-open", "enable", "-k", keystore)
        _tde(*enable, "--passphrase-fd", "0", secret=passphrase)
        install = (*install, "--passphrase-fd", "0")  # Which makes the first keys.
    # The suites expect clusters without checksums where initdb makes such ones.
    _tde(*install, "--no-checksums", secret=passphrase)
    _prove_encryption(directory, scratch / "proof", user)
    return directory


def _prove_encryption(directory: Path, data: Path, user: OsUser | None) -> None:
    """Make a cluster and look at pages of pg_class: a suite on plain files proves nothing."""
    shutil.rmtree(data, ignore_errors=True)
    _make(data, user)
    _run([str(directory / "initdb"), "-N", "-A", "trust", "-D", str(data)], user=user)
    stored = (data / "base" / "1" / "1259").read_bytes()
    blocks = [stored[start : start + BLOCK] for start in range(0, len(stored), BLOCK)]
    if not blocks or all(block[18:20] == PAGE_MARK for block in blocks):
        raise SuitesError(f"{directory / 'initdb'} made a cluster that is not encrypted: {data}")
    shutil.rmtree(data)


def _make(folder: Path, user: OsUser | None) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    if user is not None:
        os.chown(folder, user.uid, user.gid)


def _tde(*arguments: str | Path, secret: str = "") -> None:
    # The command beside this Python, which is the one whose library the suites use.
    tde = Path(sys.executable).with_name("tde")
    _run([str(tde), *map(str, arguments)], secret=secret)


def _run(command: list[str], *, user: OsUser | None = None, secret: str = "") -> None:
    done = subprocess.run(
        command,
        input=secret,
        capture_output=True,
        text=True,
        user=user.uid if user else None,
        group=user.gid if user else None,
        extra_groups=user.groups if user else None,
    )
    if done.returncode != 0:
        raise SuitesError(f"{' '.join(command)} failed: {done.stderr.strip() or done.stdout}")
