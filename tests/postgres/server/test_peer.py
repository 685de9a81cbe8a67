"""As whom root connects, by the word of the kernel, which peer authentication takes."""

from __future__ import annotations

import os
import pwd
import socket
import struct
import threading
from pathlib import Path

import psycopg2
import pytest

from tde.postgres.server.peer import connect_as_peer

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root connects as others")

PORT = 5432
_CREDENTIALS = struct.Struct("3i")  # struct ucred: process, user, group.


def users_who_connect(directory: Path, owner: str, user: str) -> list[int]:
    """Connect to what is no server and ends each connection; return who it was each time."""
    found: list[int] = []
    place = directory / f".s.PGSQL.{PORT}"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(place))
        os.chown(place, pwd.getpwnam(owner).pw_uid, -1)
        place.chmod(0o777)
        listener.listen()

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return  # The end of the test.
                with connection:
                    asked = (socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
                    found.append(_CREDENTIALS.unpack(connection.getsockopt(*asked))[1])

        thread = threading.Thread(target=serve)
        thread.start()
        parameters = {"host": str(directory), "port": PORT, "user": user, "sslmode": "disable"}
        try:
            with pytest.raises(psycopg2.OperationalError):
                connect_as_peer({**parameters, "gssencmode": "disable"})
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()
    return found


def test_root_is_the_owner_of_the_socket_and_then_itself(os_user_tmp_path, os_user):
    assert users_who_connect(os_user_tmp_path, os_user.name, os_user.name) == [os_user.uid, 0]
    assert os.getresuid() == (0, 0, 0)


def test_root_is_itself_for_a_socket_that_is_somebody_elses(os_user_tmp_path, os_user):
    """postmaster.pid may name the socket of another user's server."""
    os_user_tmp_path.chmod(0o755)  # That user could connect.
    assert users_who_connect(os_user_tmp_path, "daemon", os_user.name) == [0]
