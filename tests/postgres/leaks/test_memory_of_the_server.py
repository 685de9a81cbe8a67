"""Who may read a server's files, or run programs in it, does not get at the keys in its memory."""

from __future__ import annotations

import base64
import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

import psycopg2
import pytest

from tde.keystore import Keystore

# Keys lie in shared mappings without a file; shared_buffers is the one that is larger.
_MAPPING = re.compile(
    r"^([0-9a-f]+)-([0-9a-f]+) r\S+ (?:\S+ ){2}\S+\s+(/dev/zero|\[heap\]|$)", re.M
)
_LARGEST = 8 << 20

# What `COPY FROM PROGRAM` runs: the shell's parent is the backend.
_DUMP_OF_PARENT = r"""
exec 2>&1
grep -E ' r[w-]-s .*/dev/zero|\[heap\]' /proc/$PPID/maps | while IFS='- ' read start end rest; do
    size=$((0x$end - 0x$start))
    test $size -gt 8388608 ||
        dd if=/proc/$PPID/mem iflag=skip_bytes,count_bytes skip=$((0x$start)) count=$size bs=4096 |
        base64 -w0
    echo
done
"""


def master_key_of(keystore: Keystore) -> bytes:
    with keystore.hand_over() as hand_over:
        return os.pread(hand_over.fd, 32, 48)


@pytest.fixture
def snoop(encrypted_cluster_factory, binaries) -> Iterator[tuple[object, bytes]]:
    """A session of a role that is no superuser, in an encrypted cluster, and the master key."""
    made = encrypted_cluster_factory(binaries)
    made.query("CREATE ROLE snoop LOGIN IN ROLE pg_read_server_files, pg_execute_server_program")
    for function in ("pg_read_file", "pg_read_binary_file"):
        for rest in ("", ", boolean"):
            if rest and binaries.major < 16:
                continue
            made.query(f"GRANT EXECUTE ON FUNCTION {function}(text, bigint, bigint{rest}) TO snoop")
    made.query("GRANT EXECUTE ON FUNCTION pg_stat_file(text) TO snoop")
    made.query("CREATE TABLE secrets(row text)")
    made.query("INSERT INTO secrets VALUES ('used')")
    parameters = {**made.cluster.connection_parameters(), "user": "snoop"}
    connection = psycopg2.connect(**parameters)
    connection.autocommit = True
    try:
        yield connection, master_key_of(made.keystore)
    finally:
        connection.close()


def value(connection, statement: str, *parameters: object):
    with connection.cursor() as cursor:
        cursor.execute(statement, parameters)
        return cursor.fetchone()[0]


def memory_by_sql(connection, process: str) -> bytes:
    """Read a process's memory with two functions of PostgreSQL; what cannot be read is empty."""
    pieces = []
    refusals = psycopg2.errors.InsufficientPrivilege, psycopg2.errors.IoError
    try:
        maps = value(connection, "SELECT pg_read_file(%s, 0, 1000000)", f"/proc/{process}/maps")
    except refusals:
        return b""
    for start, end in ((int(m[1], 16), int(m[2], 16)) for m in _MAPPING.finditer(maps)):
        if end - start <= _LARGEST:
            query = "SELECT pg_read_binary_file(%s, %s, %s)"
            with contextlib.suppress(*refusals):  # Not every page is there.
                piece = value(connection, query, f"/proc/{process}/mem", start, end - start)
                pieces.append(bytes(piece))
    return b"".join(pieces)


def test_functions_that_read_files_do_not_read_memory(snoop):
    connection, key = snoop
    postmaster = value(connection, "SELECT pg_read_file('postmaster.pid', 0, 20)").split()[0]
    for process in ("self", postmaster, str(connection.info.backend_pid)):
        found = memory_by_sql(connection, process)
        assert key not in found, f"the master key is in /proc/{process}/mem"
        assert not found


def test_programs_of_the_server_do_not_read_its_memory(snoop):
    connection, key = snoop
    with connection.cursor() as cursor:
        cursor.execute("CREATE TEMP TABLE output(line text)")
        cursor.execute("COPY output FROM PROGRAM %s", [_DUMP_OF_PARENT.strip()])
        cursor.execute("SELECT line FROM output")
        lines = [row[0] for row in cursor.fetchall()]
    pieces = [base64.b64decode(line) for line in lines if re.fullmatch("[A-Za-z0-9+/=]+", line)]
    assert key not in b"".join(pieces), "the master key was read from /proc/<backend>/mem"
    assert any("maps: Permission denied" in line for line in lines), lines[:3]


def test_descriptors_and_environment_of_the_server_are_closed_too(snoop):
    connection, _ = snoop
    with connection.cursor() as cursor:
        cursor.execute("CREATE TEMP TABLE output(line text)")
        program = "for name in environ fd cwd; do ls -l /proc/$PPID/$name/; done 2>&1; true"
        cursor.execute("COPY output FROM PROGRAM %s", [program])
        cursor.execute("SELECT line FROM output")
        lines = [row[0] for row in cursor.fetchall()]
    assert sum("Permission denied" in line for line in lines) >= 2, lines
    assert not [line for line in lines if "->" in line]


def test_the_process_is_not_dumpable(snoop):
    connection, _ = snoop
    # The kernel gives the files of a process that may not be dumped to root.
    assert Path(f"/proc/{connection.info.backend_pid}/environ").stat().st_uid == 0
