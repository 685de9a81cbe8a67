"""Build the C code with ASan and UBSan and run the tests of it; `make sanitize` runs this.

The build has a folder and a virtual environment of its own, which borrows all other packages
from the environment that runs this script.
"""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
OUTPUT = ROOT / "build/sanitize"
PYTHON = OUTPUT / "venv/bin/python"
TESTS = (
    *("page", "golden", "interposer", "audit/test_block_verdicts.py"),
    # The rest of the keystore is Python alone.
    *("keystore/test_crypto.py", "keystore/test_derived_keys.py", "keystore/test_key_records.py"),
    *("audit/test_plain_files.py", "convert/test_journal.py", "convert/test_torn_blocks.py"),
    *("postgres/server/test_pidfile_and_sockets.py", "postgres/server/test_reachable_copies.py"),
    *("postgres/server/test_unhandled_calls.py", "doctor/test_machine_checks.py"),
)

# These look at the memory of a process, in which a sanitizer keeps what was freed, ignores
# mlock, and maps terabytes for itself.
INCOMPATIBLE = (
    "tests/keystore/test_crypto.py::test_secret_memory_is_locked_and_kept_out_of_core_dumps",
    "tests/page/test_memory_leaks.py::test_memory_does_not_grow",
    "tests/page/test_key_secrecy.py::test_closing_wipes_the_key_from_memory",
    # A library of theirs is loaded before the sanitizer, or loads another with RTLD_DEEPBIND.
    "tests/page/test_libcrypto.py::test_a_library_that_does_not_serve_is_said_and_not_used",
    "tests/page/test_libcrypto.py::test_a_cipher_of_the_linked_library_stays_one",
    # It starts a server, into which the sanitizer would have to be loaded first.
    "tests/postgres/server/test_pidfile_and_sockets.py::"
    "test_a_server_takes_its_stock_directory_again_after_its_postmaster_was_killed",
)

LEAK = "#include <stdlib.h>\nint main(void) { return malloc(77) == NULL; }\n"

# Everything that the module offers, once; the interpreter's own leaks are not looked at.
USE_MODULE = """
import runpy
leaks = runpy.run_path({tests!r} + "/page/test_memory_leaks.py")
pages, out = bytearray(b"\\1" * 40 * 8192), bytearray(40 * 8192)
for _ in range(20):
    leaks["one_round"](leaks["PageCipher"](leaks["KEY"]), pages, out)
print("done", flush=True)
"""


def run(*command: str | Path, environment: dict[str, str] | None = None) -> None:
    subprocess.run(
        [str(part) for part in command], cwd=ROOT, env=os.environ | (environment or {}), check=True
    )


def build() -> None:
    """Install the instrumented package beside what this environment has."""
    run(sys.executable, "-m", "venv", "--without-pip", OUTPUT / "venv")
    borrowed = sysconfig.get_path("purelib")
    site = Path(borrowed.replace(sys.prefix, str(OUTPUT / "venv")))
    (site / "borrowed.pth").write_text(borrowed + "\n")
    run(
        *(
            sys.executable,
            "-m",
            "pip",
            "--python",
            PYTHON,
            "--disable-pip-version-check",
            "install",
        ),
        *("--quiet", "--no-build-isolation", "--no-deps", "--force-reinstall", "."),
        "--config-settings=cmake.define.TDE_SANITIZE=ON",
        f"--config-settings=build-dir={OUTPUT}/cmake",
    )


def library() -> str:
    """Return the compiler's libasan, which must be loaded before the interposer."""
    found = subprocess.run(
        ["cc", "-print-file-name=libasan.so"], capture_output=True, text=True, check=True
    )
    return found.stdout.strip()


def require_leak_detection(environment: dict[str, str]) -> None:
    """Stop if a leak would not be seen, for example because ptrace is forbidden here."""
    with tempfile.TemporaryDirectory() as directory:
        program = Path(directory, "leak")
        subprocess.run(["cc", "-xc", "-", "-o", program], input=LEAK, text=True, check=True)
        code = subprocess.run(
            [program],
            env=os.environ | environment | {"ASAN_OPTIONS": "detect_leaks=1"},
            stderr=subprocess.DEVNULL,
        ).returncode
    if code == 0:
        sys.exit("LeakSanitizer does not work on this machine")


def check_leaks_of_module(environment: dict[str, str]) -> None:
    """Stop if anything that a leak report names was allocated by our C code."""
    run = subprocess.run(
        [PYTHON, "-c", USE_MODULE.format(tests=str(ROOT / "tests"))],
        # CPython's allocator would hide what is allocated behind it.
        env=os.environ | environment | {"ASAN_OPTIONS": "detect_leaks=1", "PYTHONMALLOC": "malloc"},
        capture_output=True,
        text=True,
    )
    ours = [leak for leak in run.stderr.split("\n\n") if "/_core." in leak or "c_ext/" in leak]
    if "done" not in run.stdout or ours:
        sys.exit("\n\n".join(ours) or run.stderr)
    print("tde._core: no leak")


def main() -> None:
    build()
    environment = {
        "LD_PRELOAD": library(),
        "ASAN_OPTIONS": "detect_leaks=0",  # the driver of the interposer tests turns it on
        "UBSAN_OPTIONS": "print_stacktrace=1",
        "PYTHONSAFEPATH": "1",  # or the sources in this folder would hide the package
    }
    require_leak_detection(environment)
    check_leaks_of_module(environment)
    run(
        *(PYTHON, Path(sys.executable).with_name("pytest"), "-n", "auto", "-p", "no:cacheprovider"),
        # The folder of the sources is not searched, for the same reason.
        *("-o", "pythonpath="),
        *("-m", "not slow", *(f"--deselect={test}" for test in INCOMPATIBLE)),
        *(f"tests/{name}" for name in TESTS),
        *sys.argv[1:],
        environment=environment,
    )


if __name__ == "__main__":
    main()
