"""``tde keystore sync``: copies get the keys that they lack, here and through a real sshd."""

from __future__ import annotations

import io
import os
import shutil
import socket
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tde.algorithms import Algorithm
from tde.errors import KeystoreDamagedError, KeystoreError
from tde.keystore import KeyOwner, Keystore, back_up_keystore, rotate_master_key
from tde.keystore.copies.passing import pack_copy, unpack_copy
from tde.keystore.copies.syncing import Remote, parse_target
from tde.keystore.store.reading import list_owners
from tests.keystore.cheap_passphrase import PASSPHRASE

TDE = Path(sys.executable).with_name("tde")
SSHD = shutil.which("sshd") or "/usr/sbin/sshd"
OPTIONS = "-F none -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR"


@pytest.fixture
def keystore(keystore_factory: Callable[..., Keystore]) -> Keystore:
    """An open keystore with the keys of a cluster."""
    made = keystore_factory("keystore")
    made.create_key(KeyOwner.wal(), Algorithm.AES256)
    made.create_key(KeyOwner.tablespace(1663), Algorithm.AES256)
    return made


@pytest.fixture
def copy(keystore: Keystore, os_user_tmp_path: Path) -> Path:
    """A copy from before the keystore got one more key."""
    directory = os_user_tmp_path / "copy"
    back_up_keystore(keystore.path, directory)
    keystore.create_named_key(Algorithm.AES256)
    return directory


@pytest.fixture
def ssh(tmp_path: Path) -> Iterator[str]:
    """The command that reaches an sshd on this machine's loopback, as the current user."""
    if not Path(SSHD).exists():
        pytest.skip("there is no sshd")
    for name in ("host", "user"):
        make = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / name]
        subprocess.run(make, check=True)
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    settings = tmp_path / "sshd_config"
    settings.write_text(
        f"ListenAddress 127.0.0.1:{port}\nHostKey {tmp_path}/host\nPidFile none\n"
        f"AuthorizedKeysFile {tmp_path}/user.pub\nStrictModes no\nUsePAM no\n"
        "PasswordAuthentication no\nPermitRootLogin prohibit-password\n"
    )
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    server = subprocess.Popen([SSHD, "-D", "-e", "-f", settings], stderr=subprocess.DEVNULL)
    try:
        command = f"ssh {OPTIONS} -i {tmp_path}/user -p {port}"
        deadline = time.monotonic() + 30
        while subprocess.run([*command.split(), "127.0.0.1", "true"], check=False).returncode:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        yield command
    finally:
        server.terminate()
        server.wait()


def sync(keystore: Keystore, *arguments: object, exit_code: int = 0) -> str:
    done = subprocess.run(
        [TDE, "keystore", "sync", "-k", keystore.path, *map(str, arguments)],
        input=PASSPHRASE.decode(),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == exit_code, done.stdout + done.stderr
    return done.stdout + done.stderr


def names(directory: Path) -> list[str]:
    return [owner.file_name for owner in list_owners(directory)]


def test_a_copy_on_this_machine(keystore: Keystore, copy: Path, os_user_tmp_path: Path) -> None:
    assert "added" in sync(keystore, copy, "--passphrase-fd", "0")
    assert names(copy) == names(keystore.path)
    assert "lacks nothing" in sync(keystore, copy, "--passphrase-fd", "0")
    new = os_user_tmp_path / "new"
    assert "a new copy, with 3 keys" in sync(keystore, new)
    assert names(new) == names(keystore.path)


def test_copies_on_other_machines(
    keystore: Keystore, copy: Path, os_user_tmp_path: Path, ssh: str
) -> None:
    with Keystore.open(copy, PASSPHRASE) as opened:
        opened.enable_auto_open()
    new = os_user_tmp_path / "another 'place'"
    options = ("--ssh", ssh, "--remote-tde", TDE)
    shown = sync(keystore, f"127.0.0.1:{copy}", f"127.0.0.1:{new}", *options)
    assert "added" in shown
    assert "a new copy, with 3 keys" in shown
    for directory in (copy, new):
        assert names(directory) == names(keystore.path)
    # What opens a keystore without its passphrase never travels.
    assert not (new / "auto-open.key").exists()
    assert (copy / "auto-open.key").exists()
    assert "lacks nothing" in sync(keystore, f"127.0.0.1:{copy}", *options)


def test_what_refuses_there_is_told_here(
    keystore: Keystore, copy: Path, keystore_factory: Callable[..., Keystore], ssh: str
) -> None:
    options = ("--ssh", ssh, "--remote-tde", TDE)
    before = names(copy)
    # It does not open by itself, and there is nobody to ask.
    shown = sync(keystore, f"127.0.0.1:{copy}", *options, exit_code=5)
    assert "did not take the keys" in shown
    assert names(copy) == before
    other = keystore_factory("other")
    other.enable_auto_open()
    shown = sync(keystore, f"127.0.0.1:{other.path}", *options, exit_code=5)
    assert "is another keystore" in " ".join(shown.split())
    shown = sync(keystore, f"127.0.0.1:{copy}", "--ssh", ssh, "--remote-tde", "/nowhere/tde",
                 exit_code=5)  # fmt: skip
    assert "must be in the PATH" in " ".join(shown.split())
    # What one refuses the others get.
    good = copy.parent / "good"
    assert f"{good}: a new copy" in sync(keystore, f"127.0.0.1:{copy}", good, *options, exit_code=5)


def test_a_keystore_without_keys_is_not_copied(
    keystore_factory: Callable[..., Keystore], os_user_tmp_path: Path
) -> None:
    """The accident: on each node tde pg install-bin made first keys, and no two were the same."""
    empty = keystore_factory("empty")
    for target in (os_user_tmp_path / "new", "127.0.0.1:/nowhere"):
        shown = " ".join(sync(empty, target, exit_code=5).split())
        assert "has no keys yet" in shown
        assert "Make its keys first" in shown
    assert not (os_user_tmp_path / "new").exists()


def test_a_copy_with_another_master_key_takes_nothing_by_itself(
    keystore: Keystore, copy: Path
) -> None:
    before = names(copy)
    rotate_master_key(keystore.path, PASSPHRASE)
    assert "another master key" in sync(keystore, copy, "--passphrase-fd", "0", exit_code=5)
    assert names(copy) == before


def test_targets() -> None:
    assert parse_target("node2:/etc/tde") == Remote("node2", "/etc/tde")
    assert parse_target("root@node2:/etc/tde") == Remote("root@node2", "/etc/tde")
    assert parse_target("/etc/tde:main") == Path("/etc/tde:main")
    assert parse_target("./copy") == Path("copy")
    with pytest.raises(KeystoreError, match="names no copy"):
        parse_target("node2")  # The accident: without :DIR a keystore was made in ./node2.
    with pytest.raises(KeystoreError, match="cannot be the name of a machine"):
        parse_target("-oProxyCommand=x:/etc")


def _archive(*members: tuple[str, bytes, bytes]) -> io.BytesIO:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name, kind, data in members:
            member = tarfile.TarInfo(name)
            member.type = kind
            member.linkname = "/etc/passwd"
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    stream.seek(0)
    return stream


@pytest.mark.parametrize(
    "member",
    [
        ("../keystore.json", tarfile.REGTYPE, b"x"),
        ("/keystore.json", tarfile.REGTYPE, b"x"),
        ("keys/../../x", tarfile.REGTYPE, b"x"),
        ("keys/a/b", tarfile.REGTYPE, b"x"),
        ("other/x", tarfile.REGTYPE, b"x"),
        ("keys/x", tarfile.SYMTYPE, b""),
        ("keys/x", tarfile.LNKTYPE, b""),
        ("keys/x", tarfile.FIFOTYPE, b""),
        ("keys/x", tarfile.REGTYPE, bytes((1 << 20) + 1)),
    ],
)
def test_a_stream_writes_nothing_but_files_of_a_keystore(
    member: tuple[str, bytes, bytes], tmp_path: Path
) -> None:
    """The attack: whoever may run `receive` has it write elsewhere, or fill the disk."""
    directory = tmp_path / "in" / "keystore"
    directory.mkdir(parents=True)
    with pytest.raises(KeystoreDamagedError, match="no file of a keystore"):
        unpack_copy(_archive(member), directory)
    files = [path for path in tmp_path.rglob("*") if not path.is_dir()]
    assert files == []


def test_a_stream_that_ends_early_is_refused(keystore: Keystore, tmp_path: Path) -> None:
    packed = pack_copy(keystore.path, "there")
    # At a header as well: a tar archive seems to be whole there.
    for number, end in enumerate((0, 100, 512, 1024, 2048, len(packed) // 2)):
        directory = tmp_path / str(number)
        directory.mkdir()
        with pytest.raises(KeystoreDamagedError):
            unpack_copy(io.BytesIO(packed[:end]), directory)


def test_an_address_with_colons_stands_in_brackets() -> None:
    assert parse_target("[2001:db8::5]:/etc/tde") == Remote("2001:db8::5", "/etc/tde")
    assert parse_target("root@[::1]:/etc/tde") == Remote("root@::1", "/etc/tde")
    assert parse_target("root@node2:/etc/tde") == Remote("root@node2", "/etc/tde")
