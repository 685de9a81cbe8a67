"""Who may have access to a keystore: one table of cases, for Python and for the programs in C."""

from __future__ import annotations

import grp
import importlib.resources
import os
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tde.errors import KeystoreError
from tde.keystore import Keystore, inspect_keystore
from tde.keystore.providers.passphrase_source import PassphraseSource, read_passphrase
from tde.postgres import OsUser
from tde.postgres.server.binaries import STAND_IN_SETTINGS
from tests.keystore.cheap_passphrase import PASSPHRASE

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")

ROOT, SERVER, OTHER, NOBODYS_GROUP = "root", "server", "other", "another group"


@dataclass(frozen=True)
class Case:
    """Who owns a keystore, with which modes, and whether the server's user may open it."""

    owner: str
    group: str
    directory: int
    file: int
    opens: bool

    def __str__(self) -> str:
        return f"{self.owner}-{self.group}-{self.directory:o}-{self.file:o}"


CASES = [
    Case(SERVER, SERVER, 0o700, 0o600, True),
    Case(SERVER, SERVER, 0o500, 0o400, True),
    # Nobody else is meant to read what is the server's own.
    Case(SERVER, SERVER, 0o750, 0o600, False),
    Case(SERVER, SERVER, 0o700, 0o640, False),
    Case(SERVER, SERVER, 0o700, 0o604, False),
    # A secret of a container, or root's for a server that only reads it.
    Case(ROOT, SERVER, 0o550, 0o440, True),
    Case(ROOT, SERVER, 0o750, 0o640, True),
    Case(ROOT, SERVER, 0o2550, 0o440, True),
    # Who may write, or everybody.
    Case(ROOT, SERVER, 0o770, 0o440, False),
    Case(ROOT, SERVER, 0o550, 0o460, False),
    Case(ROOT, SERVER, 0o555, 0o440, False),
    Case(ROOT, SERVER, 0o550, 0o444, False),
    Case(ROOT, SERVER, 0o551, 0o440, False),
    Case(ROOT, NOBODYS_GROUP, 0o555, 0o444, False),
    Case(ROOT, NOBODYS_GROUP, 0o550, 0o440, False),
    # Root cannot mean a third user.
    Case(OTHER, SERVER, 0o550, 0o440, False),
    Case(OTHER, SERVER, 0o700, 0o600, False),
]


@pytest.fixture
def opened_by_itself(keystore_factory, os_user_tmp_path: Path) -> Path:
    os_user_tmp_path.chmod(0o755)
    with keystore_factory("ks") as keystore:
        keystore.enable_auto_open()
        return keystore.path


@pytest.fixture
def stand_in(opened_by_itself: Path, os_user_tmp_path: Path) -> Path:
    """A program of tde pg install-bin that ends with 0 when it has got the keys."""
    stock, directory = os_user_tmp_path / "stock", os_user_tmp_path / "bin"
    for path in (stock, directory):
        path.mkdir(mode=0o755)
        path.chmod(0o755)
    server = stock / "postgres"
    server.touch()
    settings = {
        "bindir": stock,
        "keystore": opened_by_itself,
        "postgres_size": 0,
        "postgres_mtime_ns": server.stat().st_mtime_ns,
    }
    (directory / STAND_IN_SETTINGS).write_text("".join(f"{k}={v}\n" for k, v in settings.items()))
    program = directory / "pg_waldump"
    program.write_bytes(importlib.resources.files("tde").joinpath("tde_program").read_bytes())
    program.chmod(0o755)
    (stock / "pg_waldump").write_text('#!/bin/sh\ntest -n "$TDE_IO_KEYS_FD"\n')
    (stock / "pg_waldump").chmod(0o755)
    return program


@pytest.mark.parametrize("case", CASES, ids=str)
def test_python_and_the_programs_agree_who_may_have_access(
    case: Case, opened_by_itself: Path, stand_in: Path, os_user: OsUser
) -> None:
    give(opened_by_itself, case, os_user)
    assert as_user(os_user, lambda: Keystore.open_automatically(opened_by_itself)) is case.opens
    ran = subprocess.run(
        [stand_in],
        user=os_user.uid,
        group=os_user.gid,
        extra_groups=list(os_user.groups),
        capture_output=True,
        text=True,
        cwd="/",
    )
    assert (ran.returncode == 0) is case.opens, ran.stderr
    if not case.opens:
        assert "error: " in ran.stderr


def test_root_opens_what_a_server_may_open(opened_by_itself: Path, os_user: OsUser) -> None:
    for case in CASES:
        give(opened_by_itself, case, os_user)
        if case.opens:
            assert inspect_keystore(opened_by_itself).auto_open, case
        elif (case.directory | case.file) & 0o007:
            with pytest.raises(KeystoreError, match="open to other users"):
                inspect_keystore(opened_by_itself)


def test_a_member_of_the_group_by_its_supplementary_groups(
    opened_by_itself: Path, stand_in: Path, os_user: OsUser
) -> None:
    group = unused_group(os_user)
    for path in [opened_by_itself, *opened_by_itself.rglob("*")]:
        os.chown(path, 0, group)
        path.chmod(0o550 if path.is_dir() else 0o440)
    member = OsUser(os_user.name, os_user.uid, os_user.gid, (group,), os_user.home)
    assert as_user(member, lambda: Keystore.open_automatically(opened_by_itself))
    ran = subprocess.run([stand_in], user=os_user.uid, group=os_user.gid, extra_groups=[group])
    assert ran.returncode == 0


def test_a_passphrase_in_a_secret_of_a_container(os_user_tmp_path: Path, os_user: OsUser) -> None:
    os_user_tmp_path.chmod(0o755)
    file = os_user_tmp_path / "passphrase"
    file.write_bytes(PASSPHRASE)
    source = PassphraseSource(file)
    for owner, mode, is_taken in ((0, 0o440, True), (0, 0o444, False), (os_user.uid, 0o440, False)):
        os.chown(file, owner, os_user.gid)
        file.chmod(mode)
        assert as_user(os_user, lambda: read_passphrase(source)) is is_taken, (owner, mode)


def give(keystore: Path, case: Case, os_user: OsUser) -> None:
    owner = {ROOT: 0, SERVER: os_user.uid, OTHER: 12345}[case.owner]
    group = {SERVER: os_user.gid, NOBODYS_GROUP: unused_group(os_user)}[case.group]
    for path in [keystore, *keystore.rglob("*")]:
        os.chown(path, owner, group)
        path.chmod(case.directory if path.is_dir() else case.file)


def unused_group(os_user: OsUser) -> int:
    taken = {entry.gr_gid for entry in grp.getgrall()} | {os_user.gid, *os_user.groups}
    return next(number for number in range(23456, 65000) if number not in taken)


def as_user(user: OsUser, action: Callable[[], object]) -> bool:
    """Tell whether an action goes without an error of the keystore, in a process of a user."""
    child = os.fork()
    if child == 0:
        status = 2
        try:
            os.setgroups(user.groups)
            os.setgid(user.gid)
            os.setuid(user.uid)
            action()
            status = 0
        except KeystoreError:
            status = 1
        finally:
            os._exit(status)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, 1)
    return status == 0
