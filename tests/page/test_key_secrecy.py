"""Keys stay out of repr, copies and pickles, and out of memory once the cipher is closed."""

from __future__ import annotations

import copy
import gc
import hashlib
import pickle
import subprocess
import sys
from collections.abc import Callable

import pytest

from tde import PageCipher, PageError, RelationIdentity, _core
from tests.process_memory import written_memory

KEY = bytes(range(100, 164))
IDENTITY = RelationIdentity(5, 16384)


def test_repr_shows_no_key() -> None:
    cipher = PageCipher(KEY)
    assert repr(cipher) == str(cipher) == "<PageCipher AES-256-XTS>"
    assert KEY.hex() not in repr(cipher._core)
    cipher.close()
    assert repr(cipher) == "<PageCipher AES-256-XTS, closed>"


def test_nothing_in_python_refers_to_the_key() -> None:
    key = bytearray(KEY)
    cipher = PageCipher(key)
    assert not hasattr(cipher, "__dict__")
    assert not any(thing is key for thing in gc.get_referents(cipher, cipher._core))


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, pickle.dumps])
def test_no_copies_and_no_pickles(duplicate: Callable[[object], object]) -> None:
    cipher = PageCipher(KEY)
    for holder in (cipher, cipher._core):
        with pytest.raises(TypeError):
            duplicate(holder)


def test_errors_show_no_key() -> None:
    with pytest.raises(PageError) as caught:
        PageCipher(KEY + b"x")
    assert KEY.hex() not in repr(caught.value)
    assert repr(KEY)[2:-1] not in repr(caught.value)


def test_the_key_is_copied() -> None:
    key = bytearray(KEY)
    cipher = PageCipher(key)
    before = cipher.encrypt_pages(b"\1" * 8192, identity=IDENTITY)
    key[:] = bytes(64)
    assert cipher.encrypt_pages(b"\1" * 8192, identity=IDENTITY, threads=1) == before


def test_a_closed_cipher_refuses_work() -> None:
    with PageCipher(KEY) as cipher:
        assert not cipher.closed
    assert cipher.closed
    cipher.close()  # A second time is harmless.
    for work in (cipher.encrypt_pages, cipher.decrypt_pages):
        with pytest.raises(PageError, match="closed"):
            work(bytes(8192), identity=IDENTITY)


def test_the_core_type_cannot_be_extended() -> None:
    with pytest.raises(TypeError):
        type("Sub", (_core.Cipher,), {})
    with pytest.raises(TypeError):
        _core.Cipher.close = None  # type: ignore[method-assign,assignment]


# The key comes through a pipe straight into one buffer, so the only copies in the child
# are the cipher's own; the parent, which knows the key, looks for it in the child's memory.
CHILD = """
import os
from tde import PageCipher, RelationIdentity
key = bytearray(64)
assert os.readv(0, [key]) == 64
cipher = PageCipher(key)
key[:] = bytes(64)
cipher.encrypt_pages(os.urandom(8192 * 256), identity=RelationIdentity(5, 16384), threads=4)
def wait(word):
    os.write(1, word)
    os.readv(0, [bytearray(1)])
wait(b"open\\n")
cipher.close()
wait(b"shut\\n")
"""


def test_closing_wipes_the_key_from_memory() -> None:
    key = hashlib.sha512(b"a key that is nowhere else").digest()
    with subprocess.Popen(
        [sys.executable, "-c", CHILD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
    ) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.write(key)
        assert child.stdout.read(5) == b"open\n"
        # Round keys begin with the key itself, so half a key finds copies and schedules.
        memory = b"".join(written_memory(child.pid))
        assert memory.count(key[:32]) >= 2, "the search itself does not work"
        child.stdin.write(b"\n")
        assert child.stdout.read(5) == b"shut\n"
        memory = b"".join(written_memory(child.pid))
        child.stdin.write(b"\n")
    assert child.returncode == 0
    for at in range(0, 64, 16):
        assert key[at : at + 16] not in memory
