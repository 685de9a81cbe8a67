"""Bringing a key to servers that run: a sealed message that they open themselves.

The message lies beside the server's published status, in memory. The server looks for it when it
reads its configuration again, so the tool asks for that (SIGHUP), and then waits for the answer in
the status (c_ext/interpose/policy/messages.h).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import select
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from uuid import UUID

import psutil

from tde.errors import KeystoreError, TdeError
from tde.keystore import Keystore
from tde.keystore.store.files import lock_of_messages
from tde.machine.process_files import process_user
from tde.postgres.cluster.marker import read_marker
from tde.postgres.server.pidfile import read_postmaster_file
from tde.postgres.server.published import (
    KeysOfServer,
    published_servers,
    read_published_status,
)

_PATIENCE = 60.0  # Seconds that a busy postmaster may take to read its configuration.
_POLL = 0.02
_ROUNDS = 20  # Of looking for servers that have started meanwhile.
# Arguments of a postgres that has keys and is no server.
_ENDS_SOON = frozenset({"--boot", "--check", "--single", "-C"})


@dataclass(frozen=True)
class RunningServer:
    """A server that has keys of a keystore in memory."""

    pid: int
    keys: KeysOfServer


def servers_with_keys_of(keystore: UUID, directory: Path) -> list[RunningServer]:
    """Return the servers of this machine that were started with this keystore.

    Raises:
        KeystoreError: one was started by a release whose servers take no messages.
        OSError: the status of a server may not be read.
    """
    found = []
    owner = directory.stat().st_uid
    for pid in published_servers():
        # Nobody else's server can read the keystore.
        if not _is_run_by(pid, owner):
            continue
        status = read_published_status(pid)
        if status is None:
            continue
        if status.keys is None:
            if not _may_use(pid, keystore):
                continue
            raise KeystoreError(
                f"the server with process id {pid} was started by an earlier release of tde, so it "
                "cannot be given a new master key while it runs",
                remedy="Restart it, or stop it, and repeat the command.",
            )
        # A copy of the keystore elsewhere keeps its master key.
        keys = status.keys
        if keys.keystore == keystore and _is_same(keys.keystore_path, directory):
            if not any(keys.exchange_key):
                raise KeystoreError(
                    f"the OpenSSL of the server with process id {pid} has no X25519, so it cannot "
                    "be given a new master key while it runs",
                    remedy="Stop it, repeat the command, and start it again.",
                )
            found.append(RunningServer(pid, keys))
    return found


def tell_servers(keystore: Keystore) -> list[int]:
    """Give all servers of this machine the master key of an open keystore.

    Returns:
        Their process ids, without those that ended meanwhile.

    Raises:
        KeystoreError: a server has not taken it.
        OSError: the status of a server may not be read.
    """
    servers = servers_with_keys_of(keystore.uuid, keystore.path)
    told: list[int] = []
    for _ in range(_ROUNDS):
        told += send_master_key(keystore, servers)
        # One may have started meanwhile, with the master key of before in its hands.
        servers = [
            server
            for server in servers_with_keys_of(keystore.uuid, keystore.path)
            if server.keys.master_key_id != keystore.master_key_id
        ]
        if not servers:
            return told
    raise _not_taken(servers[0].pid, "the new master key")


def send_master_key(keystore: Keystore, servers: list[RunningServer]) -> list[int]:
    """Give servers the master key of an open keystore; those that ended meanwhile are passed over.

    Returns:
        The process ids of the others.

    Raises:
        KeystoreError: a server has not taken it.
    """
    return _send(keystore, servers, keystore.seal_for, "the new master key")


def send_wal_key(keystore: Keystore, server: RunningServer, key_id: UUID) -> bool:
    """Let a server write WAL with a key of the keystore, which its key map names already.

    Returns:
        False when it has ended meanwhile.

    Raises:
        KeystoreError: it has not taken it.
    """

    def seal(exchange_key: bytes, number: int) -> bytes:
        return keystore.seal_wal_key_for(exchange_key, number, key_id)

    return _send_alone(keystore, server, seal, "the new WAL key")


def send_withheld(keystore: Keystore, server: RunningServer, oid: int, *, give: bool) -> bool:
    """Withhold a tablespace from the sessions of a server, or give it to them; 0 is the keystore.

    Returns:
        False when it has ended meanwhile.

    Raises:
        KeystoreError: it has not done it.
    """

    def seal(exchange_key: bytes, number: int) -> bytes:
        return keystore.seal_withheld_for(exchange_key, number, oid, give=give)

    return _send_alone(keystore, server, seal, "what it was told")


def server_of(directory: Path) -> RunningServer | None:
    """Return the server of a data directory, which takes all messages; ``None`` without one.

    Raises:
        KeystoreError: it runs, and takes none.
    """
    running = read_postmaster_file(directory)
    if running is None:
        return None
    status = read_published_status(running.pid)
    keys = None if status is None else status.keys
    if keys is None or keys.wal_key is None:
        raise _takes_none(
            running.pid, "was started by an earlier release of tde, or not with its keys"
        )
    if not any(keys.exchange_key):
        raise _takes_none(running.pid, "has an OpenSSL without X25519")
    return RunningServer(running.pid, keys)


def _takes_none(pid: int, why: str) -> KeystoreError:
    return KeystoreError(
        f"the server with process id {pid} {why}, so it cannot be told while it runs",
        remedy="Stop it, and start it with tde pg start; then repeat the command, or before the "
        "start.",
    )


def _send_alone(
    keystore: Keystore,
    server: RunningServer,
    seal: Callable[[bytes, int], bytes],
    what: str,
) -> bool:
    """Send a message while nobody else does, as a rotation of the master key has it by its lock.

    A server has one place for a message, and one next number.
    """
    with lock_of_messages(keystore.path):
        status = read_published_status(server.pid)
        if status is None or status.keys is None:
            return False
        return bool(_send(keystore, [RunningServer(server.pid, status.keys)], seal, what))


def _send(
    keystore: Keystore,
    servers: list[RunningServer],
    seal: Callable[[bytes, int], bytes],
    what: str,
) -> list[int]:
    told = []
    for server in servers:
        keys = server.keys
        if not keystore.is_key_of(
            server.pid, keys.start_time, keys.exchange_key, keys.exchange_code
        ):
            raise KeystoreError(
                f"the public key that the server with process id {server.pid} publishes is not its "
                "own: a program that runs as its user has written it, to be given "
                f"{what}",
                remedy="Find that program (its rights are those of the server's user), then "
                "restart the server, and repeat the command.",
            )
        number = keys.message + 1
        message = seal(keys.exchange_key, number)
        try:
            with _laid(server, message), _handle(server.pid) as process:
                deadline = time.monotonic() + _PATIENCE
                _wait_until_it_listens(server.pid, deadline, what)
                signal.pidfd_send_signal(process, signal.SIGHUP)
                if _wait_for_answer(server.pid, process, number, deadline, what):
                    told.append(server.pid)
        except (ProcessLookupError, FileNotFoundError):
            continue
    return told


@contextlib.contextmanager
def _handle(pid: int) -> Iterator[int]:
    """Hold on to a server, so that no signal reaches a process that gets its number later.

    Raises:
        ProcessLookupError: it has ended.
    """
    process = os.pidfd_open(pid)
    try:
        if read_published_status(pid) is None:
            raise ProcessLookupError
        yield process
    finally:
        os.close(process)


def _wait_until_it_listens(pid: int, deadline: float, what: str) -> None:
    """Wait until a server that is just starting has a handler: the signal would end it before.

    Raises:
        ProcessLookupError: it has ended.
        KeystoreError: it has none at the deadline.
    """
    while not _catches(pid, signal.SIGHUP):
        if time.monotonic() > deadline:
            raise _not_taken(pid, what)
        time.sleep(_POLL)


def _catches(pid: int, number: signal.Signals) -> bool:
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        raise ProcessLookupError from None
    caught = re.search(r"^SigCgt:\s*([0-9a-f]+)", text, re.MULTILINE)
    if caught is None or re.search(r"^State:\s*Z", text, re.MULTILINE):
        raise ProcessLookupError
    return bool(int(caught[1], 16) >> (number - 1) & 1)


def _wait_for_answer(pid: int, process: int, number: int, deadline: float, what: str) -> bool:
    """Return False when it has ended; it begins with the new key when it is started."""
    while True:
        ended, _, _ = select.select([process], [], [], 0)
        if ended:
            return False
        status = read_published_status(pid)
        # Somebody may have removed what a server that runs has published.
        if status is not None and status.keys is not None and status.keys.message >= number:
            break
        if time.monotonic() > deadline:
            raise _not_taken(pid, what)
        time.sleep(_POLL)
    if status.keys.problem:
        raise KeystoreError(
            f"the server with process id {pid} refused {what}: {status.keys.problem}",
            remedy="It goes on with the old one, which stays until then. Repeat the command.",
        )
    return True


def _not_taken(pid: int, what: str) -> KeystoreError:
    return KeystoreError(
        f"the server with process id {pid} has not taken {what} within {_PATIENCE:.0f} seconds",
        remedy="It goes on with the old one, which stays until then. See its log, and repeat the "
        "command.",
    )


@contextlib.contextmanager
def _laid(server: RunningServer, message: bytes) -> Iterator[None]:
    """Lay a message beside the status of a server, for as long as the context lasts."""
    path = server.keys.message_file
    try:
        path.unlink(missing_ok=True)  # Of a sender that was killed.
        descriptor = _create_locked(path)
    except (FileExistsError, PermissionError) as error:
        raise KeystoreError(
            f"{path}, where a message for the server with process id {server.pid} is to lie, "
            f"belongs to somebody else: {error.strerror}",
            remedy="Find out who made it (ls -l), remove it as that user or as root, and repeat "
            "the command.",
        ) from error
    try:
        if os.geteuid() == 0:
            os.fchown(descriptor, process_user(server.pid), -1)
        os.write(descriptor, message)
        yield
    finally:
        os.close(descriptor)
        path.unlink(missing_ok=True)


def _create_locked(path: Path) -> int:
    """Create a file that servers leave alone: one that starts removes those that nobody has locked.

    The lock may come after such a server has seen the new file, which is then made again.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
    while True:
        descriptor = os.open(path, flags, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH)
            if os.fstat(descriptor).st_nlink == 1:
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _is_run_by(pid: int, user: int) -> bool:
    try:
        return process_user(pid) == user
    except (FileNotFoundError, ProcessLookupError):
        return False


def _may_use(pid: int, keystore: UUID) -> bool:
    """Tell whether a server that does not say so has keys of a keystore.

    One whose data directory cannot be found is taken for another's: it would go on, and refuse the
    next tablespace with a message about the key's file. To refuse every rotation would be worse.
    """
    try:
        arguments = psutil.Process(pid).cmdline()
    except psutil.Error:
        return False
    if _ENDS_SOON.intersection(arguments):
        return False
    # Its working directory is its data directory, also where mounts differ from ours; only root
    # may look there.
    named = dict(pairwise(arguments)).get("-D", "")
    for directory in (Path(f"/proc/{pid}/cwd"), Path(named) if named else None):
        with contextlib.suppress(TdeError, OSError):
            marker = None if directory is None else read_marker(directory)
            if marker is not None:
                return marker.keystore_uuid == keystore
    return False


def _is_same(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:
        return False
