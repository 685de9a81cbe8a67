"""What runs on 64-bit ARM when QEMU is the processor, and what does not, and why.

tests/distributions/run.sh sets ``EMULATED`` where it runs tests under QEMU. Nothing here is for a
machine that has such a processor: there all tests run.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Area:
    """Tests that show one thing.

    Attributes:
        key: the name of its report.
        title: what the table calls it.
        tests: what pytest is given.
    """

    key: str
    title: str
    tests: Sequence[str]


AREAS = (
    Area("page", "AES-XTS, pages, identities, worker threads", ["tests/page"]),
    Area("golden", "golden files of the stored formats", ["tests/golden"]),
    Area("parsers", "parsers of the format, on the seeds of the fuzzers", ["tests/fuzz"]),
    Area("interposer", "interposer", ["tests/interposer"]),
    Area(
        "other",
        "other users of the C code",
        [
            *("tests/audit/test_block_verdicts.py", "tests/audit/test_plain_files.py"),
            *("tests/convert/test_journal.py", "tests/convert/test_torn_blocks.py"),
            *("tests/keystore/test_crypto.py", "tests/keystore/test_derived_keys.py"),
            *("tests/keystore/test_key_records.py", "tests/doctor/test_machine_checks.py"),
            "tests/postgres/server/test_pidfile_and_sockets.py",
            "tests/postgres/server/test_unhandled_calls.py",
        ],
    ),
    Area(
        "server",
        "a server: PostgreSQL 15",
        ["tests/postgres/cluster/test_start_and_stop.py", "tests/postgres/test_no_plaintext.py"],
    ),
)

_SECRETS = "tests/keystore/test_crypto.py"
_START = "tests/postgres/cluster/test_start_and_stop.py"
_WORKERS = "tests/page/test_worker_threads.py::test_a_program_that_uses_workers_ends"

# LeakSanitizer stops the process that it looks at with ptrace, which QEMU has not.
ENVIRONMENT = {"ASAN_OPTIONS": "detect_leaks=0"}

# Beginnings of node IDs.
UNABLE: Mapping[str, str] = {
    f"{_WORKERS}_without_an_error[fork with idle workers]": "QEMU has a thread of its own in each "
    "child, and the test counts threads",
    f"{_SECRETS}::test_secret_memory_is_locked_and_kept_out_of_core_dumps": "QEMU makes up what a "
    "program reads of its own memory, and leaves out what is locked",
    f"{_START}::test_an_encrypted_cluster_reports_what_protects_it": "QEMU tells a server another "
    "time of its start than /proc tells others, who then do not believe what it publishes",
}


def why_not(node_id: str) -> str | None:
    """Return why a test cannot run under emulation; ``None`` where it can, or is not emulated."""
    if "EMULATED" not in os.environ:
        return None
    return next((UNABLE[start] for start in UNABLE if node_id.startswith(start)), None)
