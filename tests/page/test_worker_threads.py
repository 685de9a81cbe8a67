"""Threads that stay for the next batch: shared by callers, across fork, and at exit.

Each program runs in a process of its own, because workers of other tests would be counted.
"""

from __future__ import annotations

import subprocess
import sys

import pytest

# 256 pages are so many that four threads share them.
PRELUDE = """
import contextlib, os, signal, sys, threading, time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tde import PageCipher, RelationIdentity

cipher = PageCipher(bytes(range(64)))
pages = os.urandom(8192 * 256)
identity = RelationIdentity(5, 16384)
expected = cipher.encrypt_pages(pages, identity=identity)

def encrypt(threads):
    return cipher.encrypt_pages(pages, identity=identity, threads=threads) == expected

def tasks():
    return {int(task.name) for task in Path("/proc/self/task").iterdir()}

def run_child(work):
    child = os.fork()
    if child == 0:
        os._exit(not work())
    return os.waitpid(child, 0)[1] == 0

alone = tasks()
"""

MANY_CALLS = """
assert all(encrypt(1 + turn % 4) for turn in range(500))
"""

SIZES = """
for count in range(120, 700, 29):
    some = pages * 3
    some = some[: count * 8192]
    once = cipher.encrypt_pages(some, identity=identity)
    for threads in (2, 3, 64):
        stored = cipher.encrypt_pages(some, identity=identity, threads=threads)
        assert stored == once, (count, threads)
        plain = cipher.decrypt_pages(stored, identity=identity, threads=threads)
        assert plain == some, (count, threads)
"""

CONCURRENT_CALLERS = """
start = threading.Barrier(4)
def work(number):
    own = PageCipher(bytes(range(number, number + 64)))
    batch = pages[: (150 + number) * 8192]
    once = own.encrypt_pages(batch, identity=identity)
    start.wait()
    for turn in range(100):
        assert own.encrypt_pages(batch, identity=identity, threads=2 + turn % 3) == once
with ThreadPoolExecutor(4) as pool:
    list(pool.map(work, range(4)))
"""

NO_MORE_THAN_ASKED_FOR = """
for threads in (2, 3, 2, 1, 3):
    assert encrypt(threads)
    assert len(tasks() - alone) <= 2
assert encrypt(4)
assert len(tasks() - alone) <= 3
"""

THEY_END_WHEN_IDLE = """
for _ in range(2):
    assert encrypt(4)
    while tasks() - alone:
        time.sleep(0.05)
assert encrypt(4)
"""

SIGNALS_ARE_BLOCKED = """
def blocked(task):
    lines = Path(f"/proc/self/task/{task}/status").read_text().splitlines()
    return int(dict(line.split(":", 1) for line in lines)["SigBlk"], 16)
assert encrypt(3)
for task in tasks() - alone:
    with contextlib.suppress(FileNotFoundError):  # It may have ended, on a busy machine.
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM, signal.SIGCHLD):
            assert blocked(task) >> (number - 1) & 1
assert not blocked(os.getpid())
"""

FORK_WITH_IDLE_WORKERS = """
def child():
    return len(tasks()) == 1 and encrypt(4) and run_child(grandchild) and encrypt(2)
def grandchild():
    return len(tasks()) == 1 and encrypt(3)
for _ in range(20):
    assert encrypt(4)
    assert run_child(child)
"""

# The child is forked while the workers are busy, and must neither wait for them nor miss them.
FORK_DURING_BATCHES = """
stop = threading.Event()
def work():
    while not stop.is_set():
        assert encrypt(3)
with ThreadPoolExecutor(2) as pool:
    busy = [pool.submit(work) for _ in range(2)]
    forked = [run_child(lambda: encrypt(4) and encrypt(2)) for _ in range(30)]
    stop.set()
    for result in busy:
        result.result()
assert all(forked)
"""

EXIT_RIGHT_AFTER_A_BATCH = """
assert encrypt(4)
"""

EXIT_WHILE_THEY_SLEEP = """
assert encrypt(4)
time.sleep(0.1)
sys.exit(0)
"""

CLOSED_CIPHER = """
for number in range(30):
    with PageCipher(bytes(range(number, number + 64))) as other:
        once = other.encrypt_pages(pages, identity=identity, threads=4)
        assert once == other.encrypt_pages(pages, identity=identity)
    assert encrypt(4)
"""


@pytest.mark.parametrize(
    "program",
    [
        pytest.param(MANY_CALLS, id="many calls"),
        pytest.param(SIZES, id="sizes of batches"),
        pytest.param(CONCURRENT_CALLERS, id="concurrent callers"),
        pytest.param(NO_MORE_THAN_ASKED_FOR, id="no more than asked for"),
        pytest.param(THEY_END_WHEN_IDLE, id="they end when idle"),
        pytest.param(SIGNALS_ARE_BLOCKED, id="signals are blocked"),
        pytest.param(FORK_WITH_IDLE_WORKERS, id="fork with idle workers"),
        pytest.param(FORK_DURING_BATCHES, id="fork during batches"),
        pytest.param(EXIT_RIGHT_AFTER_A_BATCH, id="exit right after a batch"),
        pytest.param(EXIT_WHILE_THEY_SLEEP, id="exit while they sleep"),
        pytest.param(CLOSED_CIPHER, id="closed cipher"),
    ],
)
def test_a_program_that_uses_workers_ends_without_an_error(program: str) -> None:
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", PRELUDE + program]
    done = subprocess.run(command, timeout=120, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
