"""What the functions of the SQL extension have done: a backend runs `tde extension act`.

The passphrases come by a socket, each behind its length in four bytes, and nowhere else
(c_ext/extension/child.h). What is printed is for the person at the client.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tde.child_process import go_on_in_child
from tde.errors import ClusterKeystoreError, KeystoreError, PassphraseError
from tde.keystore.crypto.secret import wipe
from tde.keystore.providers.passphrase_source import check_length
from tde.machine.own_process import is_traced

if TYPE_CHECKING:
    from tde.keystore import Keystore
    from tde.postgres.cluster.cluster import Cluster

_READY = b"\x01"
_LENGTH_BYTES = 4
_LONGEST = 1 << 16  # Bytes; whether it is a passphrase is told later, in words.

NOT_ENCRYPTED = "It has no keystore."


def ask_unseen(standard_input: int) -> int:
    """Go on where nobody looks, and return the descriptor by which the extension sends secrets.

    From the exec of this process to :func:`~tde.machine.own_process.forbid_access`, which it has
    called, another program of the server's user may have opened its memory and copied its
    descriptors, and still have them. So a child goes on, and the extension gets a new socket. It
    knows that it comes from this process.

    Raises:
        KeystoreError: a debugger is attached.
    """
    if is_traced():
        raise KeystoreError(
            "a debugger is attached to the command",
            remedy="It would see the passphrase. Find out who has started it.",
        )
    ours, theirs = socket.socketpair()
    asked = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, fileno=standard_input)
    try:
        socket.send_fds(asked, [_READY], [theirs.fileno()])
    except OSError:
        # A library of an earlier release, which is loaded until the restart, sends by a pipe.
        return standard_input
    finally:
        asked.detach()
        theirs.close()
    go_on_in_child()
    return ours.detach()


@contextmanager
def secrets_of(descriptor: int, count: int) -> Iterator[list[bytearray]]:
    """Read what the extension sends from a descriptor, and wipe it when the context is left.

    Raises:
        PassphraseError: there is too little.
    """
    found: list[bytearray] = []
    try:
        for _ in range(count):
            length = int.from_bytes(_read(descriptor, _LENGTH_BYTES), "big")
            if length > _LONGEST:
                raise PassphraseError("this is not what the extension sends")
            found.append(_read(descriptor, length))
        yield found
    finally:
        for secret in found:
            wipe(secret)


def _read(descriptor: int, length: int) -> bytearray:
    """Read into place, because bytes objects cannot be wiped."""
    buffer = bytearray(length)
    done = 0
    with memoryview(buffer) as view:
        while done < length:
            count = os.readv(descriptor, [view[done:]])
            if count == 0:
                raise PassphraseError("the extension has sent no passphrase")
            done += count
    return buffer


def keystore_directory(cluster: Cluster) -> Path:
    """Return the keystore of a cluster that must be encrypted.

    Raises:
        ClusterKeystoreError: it is not.
        KeystoreError: the keystore is missing or damaged.
    """
    from tde.postgres.cluster.access import keystore_of_cluster

    path = keystore_of_cluster(cluster, None)
    if path is None:
        raise ClusterKeystoreError(
            f"the cluster {cluster.data_directory} is not encrypted", remedy=NOT_ENCRYPTED
        )
    return path


def open_with_passphrase(cluster: Cluster, passphrase: bytearray) -> str:
    """Open the keystore for the sessions of the server; returns what to tell.

    Raises:
        KeystoreError: it does not open, or the server has not done it.
        ServerNotRunningError: the server has ended.
    """
    from tde.postgres.cluster.withholding import open_for_sessions

    check_length(passphrase)
    with _opened(keystore_directory(cluster), passphrase) as keystore:
        pid = open_for_sessions(cluster, keystore)
    return f"The keystore of the server with process id {pid} is open"


def set_master_key(cluster: Cluster, passphrase: bytearray) -> str:
    """Replace the master key, and open the keystore for the sessions; returns what to tell.

    Raises:
        KeystoreError: it does not open, or the server has not taken the new master key.
        ServerNotRunningError: the server has ended.
    """
    from tde.keystore import rotate_master_key
    from tde.keystore.ways import names_of_no_use, told_of_rotation
    from tde.postgres.cluster.messages import servers_with_keys_of, tell_servers
    from tde.postgres.cluster.withholding import open_for_sessions
    from tde.postgres.server.pidfile import read_postmaster_file
    from tde.postgres.server.published import read_published_status

    check_length(passphrase)
    directory = keystore_directory(cluster)
    marker = cluster.marker
    assert marker is not None  # Or there is no keystore.
    servers_with_keys_of(marker.keystore_uuid, directory)  # Refuses before anything is changed.
    of_no_use = names_of_no_use(directory)

    def tell(keystore: Keystore) -> None:
        tell_servers(keystore)

    with rotate_master_key(directory, passphrase, tell) as keystore:
        running = read_postmaster_file(cluster.data_directory)
        status = None if running is None else read_published_status(running.pid)
        if status is not None and status.keys is not None and status.keys.closed:
            open_for_sessions(cluster, keystore)
        new = keystore.master_key_id.hex
    # Each line becomes a message of the server.
    return "\n".join(
        [
            f"The master key is {new} now. Back the keystore up again, and destroy copies that "
            "were made before: they open with the old one.",
            *told_of_rotation(directory, of_no_use),
        ]
    )


def set_passphrase(cluster: Cluster, old: bytearray, new: bytearray) -> str:
    """Change the passphrase; returns what to tell.

    Raises:
        KeystoreError: the keystore does not open with the old one, or the new one cannot be used.
    """
    from tde.keystore import change_passphrase
    from tde.keystore.providers.passphrase import PassphraseProvider

    check_length(old)
    change_passphrase(keystore_directory(cluster), PassphraseProvider(old), new)
    return (
        "The passphrase was changed. Copies and backups of the keystore that were made before "
        "still open with the old one: make a new backup, and destroy them if somebody knows it."
    )


def note_closing(cluster: Cluster) -> str:
    """Tell in the key log that the server is about to close its keystore for its sessions.

    It has no passphrase for that, so the next entry proves this one.

    Raises:
        KeystoreError: the log cannot be written, so it must not be done.
    """
    from tde.keystore.log.writing import write_entry

    details = {"cluster": str(cluster.data_directory), "by": "SQL"}
    write_entry(keystore_directory(cluster), "close for sessions", details, None)
    return ""


def keys_of(cluster: Cluster) -> list[dict[str, Any]]:
    """Return what the key records of a cluster's keystore say in the clear, for JSON.

    Raises:
        KeystoreError: the keystore is missing or damaged.
    """
    from tde.keystore import inspect_keystore

    return [
        {
            "owner": str(key.owner),
            "algorithm": None if key.algorithm is None else key.algorithm.label,
            "id": None if key.owner.key_id is None else key.owner.key_id.hex,
            "file": key.file.name,
        }
        for key in inspect_keystore(keystore_directory(cluster)).keys
    ]


def prepare_location(cluster: Cluster, location: Path, record: bytearray) -> Path:
    """Make the directory that is named after the key of a tablespace to be, and store the key.

    In this order, because a directory can be removed again, and a key that is stored stays.

    Args:
        record: of the key, which the server has made and wrapped.

    Raises:
        KeystoreError: it cannot be stored.
        TablespaceError: the location cannot be used.
        ReplicationError: a standby with another keystore would stop; SQL cannot wait for it.
    """
    from tde.keystore.server_keys import id_of_server_key, store_key_of_server
    from tde.postgres.cluster.standbys import require_no_others
    from tde.postgres.tablespace.tablespaces import made_location, require_possible_location

    data = bytes(record)
    keystore = keystore_directory(cluster)
    require_possible_location(cluster, location)
    require_no_others(cluster, keystore)
    with made_location(cluster, location, id_of_server_key(data)) as own:
        store_key_of_server(keystore, data)
    return own


@contextmanager
def _opened(directory: Path, passphrase: bytearray) -> Iterator[Keystore]:
    from tde.keystore import Keystore
    from tde.keystore.opening import tell_of_opening

    with Keystore.open(directory, passphrase) as keystore:
        tell_of_opening(keystore, "the passphrase, in SQL")
        yield keystore


VERBS_WITH_SECRETS: dict[str, tuple[int, Callable[..., str]]] = {
    "open": (1, open_with_passphrase),
    "set-master-key": (1, set_master_key),
    "set-passphrase": (2, set_passphrase),
    "note-closing": (0, note_closing),
}
"""How many passphrases each takes, and what it does with the cluster and these."""
