"""Pages are encrypted by the fastest OpenSSL at hand, and by none that is not right."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tde import _core
from tde.page import libcrypto
from tests.second_libcrypto import needs_second_libcrypto

PAGES = """
import hashlib, os, sys
from tde import _core
from tde import PageCipher, RelationIdentity
{before}
fork = RelationIdentity(5, 16384)
digest = hashlib.sha256()
for algorithm, size in (("AES128", 32), ("AES256", 64)):
    with PageCipher(bytes(range(size)), algorithm) as cipher:
        for first in (0, 131071, 4294967290):
            seed = b"%d %d" % (size, first)
            pages = hashlib.shake_256(seed).digest(5 * 8192)
            made = bytes(cipher.encrypt_pages(pages, identity=fork, first_block=first))
            assert bytes(cipher.decrypt_pages(made, identity=fork, first_block=first)) == pages
            digest.update(made)
print(_core.openssl_version() + "|" + digest.hexdigest())
"""


def run(before: str = "", **variables: str) -> tuple[str, str, str]:
    """Encrypt pages in a new process; return the OpenSSL that did, a digest and what was said."""
    kept = {name: value for name, value in os.environ.items() if name != libcrypto.VARIABLE}
    done = subprocess.run(
        [sys.executable, "-c", PAGES.format(before=before)],
        capture_output=True, text=True, check=False, env={**kept, **variables},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    version, _, digest = done.stdout.strip().partition("|")
    return version, digest, done.stderr


def bundled() -> str:
    found = libcrypto.find_libcrypto()
    assert found is not None
    return str(found)


@needs_second_libcrypto
def test_the_faster_library_gives_the_same_pages():
    version, digest, _ = run()
    assert version != _core.linked_openssl_version()
    assert run(TDE_LIBCRYPTO="system")[:2] == (_core.linked_openssl_version(), digest)
    assert run(TDE_LIBCRYPTO=bundled())[:2] == (version, digest)


@needs_second_libcrypto
def test_a_child_goes_on_with_it_and_so_does_who_has_lost_the_file(tmp_path):
    copy = shutil.copy(bundled(), tmp_path / "libcrypto.so.3")
    before = f"""
PageCipher(bytes(range(64)))
os.unlink({str(copy)!r})
child = os.fork()
if child:
    sys.exit(os.waitpid(child, 0)[1])
"""
    version, digest, said = run(before, TDE_LIBCRYPTO=str(copy))
    assert (version, digest) == run()[:2]
    assert said == ""


WRONG = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <string.h>
#define FORWARD(result, name, types, names) result name types { \\
    result (*real) types; *(void **)&real = dlsym(library, #name); return real names; }
static void *library;
__attribute__((constructor)) static void load(void)
{ library = dlopen(REAL, RTLD_NOW | RTLD_LOCAL | RTLD_DEEPBIND); }
FORWARD(unsigned, OPENSSL_version_major, (void), ())
FORWARD(unsigned, OPENSSL_version_minor, (void), ())
FORWARD(int, OPENSSL_init_crypto, (unsigned long a, void *b), (a, b))
FORWARD(void *, OSSL_LIB_CTX_new, (void), ())
FORWARD(void, EVP_CIPHER_free, (void *a), (a))
FORWARD(void *, EVP_CIPHER_get0_provider, (void *a), (a))
FORWARD(void *, OSSL_PROVIDER_query_operation, (void *a, int b, void *c), (a, b, c))
FORWARD(void, OSSL_PROVIDER_unquery_operation, (void *a, int b, void *c), (a, b, c))
FORWARD(void *, OSSL_PROVIDER_get0_provider_ctx, (void *a), (a))
FORWARD(const char *, OpenSSL_version, (int a), (a))
/* The query is by name, so another cipher's name is not enough: the names are exchanged there. */
FORWARD(void *, EVP_CIPHER_fetch, (void *a, const char *b, const char *c), (a, b, c))
"""


@pytest.fixture
def wrong(tmp_path) -> Path:
    """A library that is complete, and whose AES-XTS is something else."""
    source = tmp_path / "wrong.c"
    text = WRONG.replace(
        "FORWARD(void *, OSSL_PROVIDER_query_operation, (void *a, int b, void *c), (a, b, c))",
        """
struct algorithm { const char *names, *properties; const void *implementation; const char *text; };
static struct algorithm made[3];
void *OSSL_PROVIDER_query_operation(void *a, int b, void *c)
{
    struct algorithm *(*real)(void *, int, void *);
    *(void **)&real = dlsym(library, "OSSL_PROVIDER_query_operation");
    for (struct algorithm *at = real(a, b, c); at->names != NULL; at++) {
        if (strstr(at->names, "AES-256-ECB:") == at->names)
            made[1] = *at, made[1].names = "AES-256-XTS";
        if (strstr(at->names, "AES-128-ECB:") == at->names)
            made[0] = *at, made[0].names = "AES-128-XTS";
    }
    return made;
}
""",
    )
    source.write_text(text)
    made = tmp_path / "libwrong.so"
    real = f'-DREAL="{bundled()}"'
    command = ["gcc", "-shared", "-fPIC", "-w", real, "-o", made, source, "-ldl"]
    subprocess.run(command, check=True)
    return made


@needs_second_libcrypto
def test_a_library_that_does_not_serve_is_said_and_not_used(tmp_path, wrong):
    (tmp_path / "text").write_text("no library")
    _, digest, _ = run(TDE_LIBCRYPTO="system")
    for path, problem in (
        (tmp_path / "text", "file too short"),
        (tmp_path / "missing", "cannot open shared object file"),
        (ctypes_path("libz.so.1"), "it is no libcrypto of OpenSSL 3"),
        (ctypes_path("libcrypto.so.3"), "it is older than OpenSSL 3.5"),
        (wrong, "it does not encrypt as OpenSSL does"),
    ):
        version, made, said = run(TDE_LIBCRYPTO=str(path))
        assert (version, made) == (_core.linked_openssl_version(), digest)
        assert f"{path} cannot encrypt pages: {problem}" in said.replace(f"{path}: ", "", 1)


def ctypes_path(name: str) -> str:
    """Return where the loader finds a library."""
    lines = subprocess.run(["ldconfig", "-p"], capture_output=True, text=True, check=True).stdout
    return next(line.split()[-1] for line in lines.splitlines() if f"{name} (" in line)


def test_where_fips_is_demanded_the_systems_is_used(tmp_path):
    configuration = tmp_path / "openssl.cnf"
    configuration.write_text(
        "openssl_conf = a\n[a]\nalg_section = b\n[b]\ndefault_properties = fips=yes\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", "from tde import _core; print(_core.libcrypto_would_gain())"],
        capture_output=True, text=True, check=True,
        env={**os.environ, "OPENSSL_CONF": str(configuration)},
    )  # fmt: skip
    assert done.stdout == "False\n"


COUNTING = """
#define _GNU_SOURCE
#include <dlfcn.h>
int queries;
const void *OSSL_PROVIDER_query_operation(const void *provider, int operation, int *no_cache)
{
    const void *(*real)(const void *, int, int *);
    *(void **)&real = dlsym(RTLD_NEXT, "OSSL_PROVIDER_query_operation");
    queries++;
    return real(provider, operation, no_cache);
}
"""


@needs_second_libcrypto
def test_a_cipher_of_the_linked_library_stays_one(tmp_path):
    """What is preloaded sees only what the core asks of the library that it is linked with."""
    (tmp_path / "counting.c").write_text(COUNTING)
    counting = tmp_path / "libcounting.so"
    command = ["gcc", "-shared", "-fPIC", "-w", "-o", counting, tmp_path / "counting.c"]
    subprocess.run([*command, "-Wl,--no-as-needed", "-lcrypto", "-ldl"], check=True)
    before = f"""
import ctypes
from tde.algorithms import Algorithm
from tde.page.codec import linked_page_cipher
from tde.page.libcrypto import choose_libcrypto
queries = ctypes.c_int.in_dll(ctypes.CDLL({str(counting)!r}), "queries")
fork, key, pages = RelationIdentity(5, 16384), bytes(range(64)), os.urandom(256 * 8192)
early = PageCipher.__new__(PageCipher)
early._algorithm, early._core = Algorithm.AES256, _core.Cipher(2, key)
choose_libcrypto()
assert _core.openssl_version() != _core.linked_openssl_version()
asked = []
def ask(cipher):
    before = queries.value
    made = cipher().encrypt_pages(pages, identity=fork, threads=4)
    asked.append(queries.value - before)
    return made
linked = linked_page_cipher(key, Algorithm.AES256)
chosen = PageCipher(key)
assert ask(lambda: linked) == ask(lambda: chosen) == ask(lambda: early)
ask(lambda: PageCipher(key))
ask(lambda: linked_page_cipher(key, Algorithm.AES256))
# Four threads take three ciphers more, in two directions each.
assert asked == [6, 0, 6, 0, 8], asked
"""
    run(before, LD_PRELOAD=str(counting))
