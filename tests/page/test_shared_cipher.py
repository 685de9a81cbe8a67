"""One cipher under many Python threads, across fork, and closed while it works."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tde import PageCipher, PageError, RelationIdentity
from tde.page import reference

PAGE = 8192
KEY = bytes(range(64))
PAGES = bytes(i * 31 % 253 for i in range(5 * PAGE))


def identity_of(worker: int) -> RelationIdentity:
    return RelationIdentity(5, 16384 + worker)


def test_many_threads_share_a_cipher() -> None:
    cipher = PageCipher(KEY)
    start = threading.Barrier(8)

    def work(worker: int) -> None:
        identity = identity_of(worker)
        expected = reference.encrypt_pages(KEY, PAGES, identity, worker)
        start.wait()
        for turn in range(60):
            encrypted = cipher.encrypt_pages(
                PAGES, identity=identity, first_block=worker, threads=1 + turn % 3
            )
            assert encrypted == expected
            plain = cipher.decrypt_pages(encrypted, identity=identity, first_block=worker)
            assert plain == PAGES

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))


@pytest.fixture
def no_forced_switches() -> Iterator[None]:
    """Let a thread keep the GIL until it gives it up by itself."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1000)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("no_forced_switches")
@pytest.mark.parametrize("method", ["encrypt_pages", "decrypt_pages"])
def test_the_gil_is_released(method: str) -> None:
    cipher = PageCipher(KEY)
    pages = bytearray(os.urandom(256 * PAGE))
    gate, ran = threading.Lock(), []
    gate.acquire()

    def other() -> None:
        with gate:
            ran.append(True)

    thread = threading.Thread(target=other)
    thread.start()
    gate.release()
    # The other thread can go on only inside one of these calls.
    for _ in range(500):
        getattr(cipher, method)(pages, pages, identity=identity_of(0))
        if ran:
            break
    assert ran
    thread.join()


def test_closing_lets_running_calls_finish_and_stops_later_ones() -> None:
    cipher = PageCipher(KEY)
    pages = PAGES * 40
    expected = cipher.encrypt_pages(pages, identity=identity_of(1))
    started = threading.Event()

    def encrypt_until_refused() -> None:
        while True:
            encrypted = cipher.encrypt_pages(pages, identity=identity_of(1), threads=2)
            assert encrypted == expected
            started.set()

    def work() -> None:
        with pytest.raises(PageError, match="closed"):
            encrypt_until_refused()

    with ThreadPoolExecutor(3) as pool:
        results = [pool.submit(work) for _ in range(3)]
        in_time = started.wait(timeout=30)
        cipher.close()
        for result in results:
            result.result()
    assert in_time
    assert cipher.closed


FORK = """
import os, threading
from tde import PageCipher, RelationIdentity
cipher = PageCipher(bytes(range(64)))
pages, identity = os.urandom(8192 * 256), RelationIdentity(5, 16384)
expected = cipher.encrypt_pages(pages, identity=identity)
stop = threading.Event()
def work():
    while not stop.is_set():
        cipher.encrypt_pages(pages, identity=identity, threads=2)
worker = threading.Thread(target=work)
worker.start()
for _ in range(20):
    child = os.fork()
    if child == 0:
        os._exit(cipher.encrypt_pages(pages, identity=identity, threads=4) != expected)
    assert os.waitpid(child, 0)[1] == 0
stop.set()
worker.join()
"""


def test_a_forked_child_can_go_on_while_the_parent_works() -> None:
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORK]
    subprocess.run(command, check=True, timeout=60)
