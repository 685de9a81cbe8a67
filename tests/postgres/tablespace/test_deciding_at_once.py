"""Sessions that make tablespaces at the same moment, and one that waits for the key map."""

from __future__ import annotations

import fcntl
import os
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg2
import pytest

from tde.algorithms import Algorithm
from tde.postgres import prepare_key
from tde.postgres.cluster.keymap import KEYMAP_FILE
from tests.conftest import RunningCluster
from tests.postgres.cluster_copies import make_directory

SESSIONS = 4
# A disk that takes its time to make a link, as in the middle of a checkpoint.
SLOW_LINKS = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <string.h>
#include <unistd.h>

int symlink(const char *target, const char *link)
{
    int (*next)(const char *, const char *);
    void *symbol = dlsym(RTLD_NEXT, "symlink");

    memcpy(&next, &symbol, sizeof next);
    usleep(300000);
    return next(target, link);
}
"""


@contextmanager
def locked_map(made: RunningCluster) -> Iterator[None]:
    """Hold the lock of the key map, as anybody can who may read the file."""
    with (made.data_directory / KEYMAP_FILE).open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def test_one_key_is_given_to_one_of_many_sessions(
    any_binaries, encrypted_cluster_factory, os_user_tmp_path
):
    """With one key for two tablespaces, equal pages could be seen to be equal."""
    source = os_user_tmp_path / "slow.c"
    source.write_text(SLOW_LINKS)
    library = source.with_suffix(".so")
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    made = encrypted_cluster_factory(any_binaries, start=False)
    made.start(environment={**os.environ, "LD_PRELOAD": str(library)})
    prepared = prepare_key(made.cluster, made.keystore, os_user_tmp_path / "0", Algorithm.AES256)
    locations = []
    for number in range(SESSIONS):
        make_directory(made, os_user_tmp_path / str(number))
        location = os_user_tmp_path / str(number) / prepared.location.name
        locations.append(make_directory(made, location))
    failures: list[Exception] = []

    def create(number: int) -> None:
        try:
            made.query(f"CREATE TABLESPACE space{number} LOCATION '{locations[number]}'")
        except psycopg2.Error as error:
            failures.append(error)

    sessions = [threading.Thread(target=create, args=(n,)) for n in range(SESSIONS)]
    with locked_map(made):
        for session in sessions:
            session.start()
        time.sleep(3)  # By now all of them wait for the same moment.
    for session in sessions:
        session.join(60)
    assert len(failures) == SESSIONS - 1
    assert all("Required key not available" in str(error) for error in failures)
    assert "the key that the location names is that of" in made.cluster.default_log.read_text()
    assert made.query("SELECT count(*) FROM pg_tablespace WHERE oid > 16000") == [(1,)]


@pytest.mark.parametrize("ends", ["SET statement_timeout = '1s'", "SELECT 1"])
def test_a_session_does_not_wait_for_the_map_without_end(
    any_binaries, encrypted_cluster_factory, os_user_tmp_path, ends
):
    """It ends when it is cancelled, and otherwise by itself, with a message."""
    made = encrypted_cluster_factory(any_binaries)
    location = make_directory(made, os_user_tmp_path / "space")
    statement = f"CREATE TABLESPACE space LOCATION '{location}'"
    errors: list[str] = []

    def create() -> None:
        connection = psycopg2.connect(**made.cluster.connection_parameters())
        connection.autocommit = True
        try:
            with connection.cursor() as cursor:
                cursor.execute(ends)
                cursor.execute(statement)
        except psycopg2.Error as error:
            errors.append(str(error))
        finally:
            connection.close()

    session = threading.Thread(target=create)
    with locked_map(made):
        session.start()
        session.join(20 if "timeout" in ends else 90)
        ended = not session.is_alive()
    session.join(60)
    assert ended
    if "timeout" in ends:
        assert "Interrupted system call" in errors[0] or "canceling statement" in errors[0]
    else:
        assert "Connection timed out" in errors[0]
        log = made.cluster.default_log.read_text()
        assert "another process has it locked for 30 seconds" in log
    # And it can be repeated, as the message says.
    (left,) = location.iterdir()
    left.rmdir()
    made.query(statement)
