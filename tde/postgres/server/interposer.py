"""The interposer libtde_io.so: where it is, whether a server has it, and how a lack of it shows."""

from __future__ import annotations

import importlib.resources
import re
from pathlib import Path

from tde.errors import InterposerError, KeystoreBusyError, KeystoreDamagedError, KeystoreError
from tde.machine.process_files import read_process_file
from tde.postgres.server.published import read_published_status

INTERPOSER_NAME = "libtde_io.so"

GUARD_FILE = "tde-start-this-cluster-with-tde-pg-start.conf"
"""A configuration file that only the interposer makes appear; see tde.postgres.cluster.guard."""

# In quotes, Debian's programs (postgresql-common since trixie) would look for it themselves, and
# pg_lsclusters fail for all clusters of the machine. To PostgreSQL both are the same.
GUARD_LINE = f"include {GUARD_FILE}"


def find_interposer() -> Path:
    """Return the path of libtde_io.so, which the build installs beside ``tde._core``.

    Raises:
        InterposerError: it was not built.
    """
    # An editable installation keeps the compiled files apart from the Python sources;
    # importlib.resources knows both places.
    path = Path(str(importlib.resources.files("tde").joinpath(INTERPOSER_NAME)))
    if path.is_file():
        return path
    raise InterposerError(
        f"{INTERPOSER_NAME} is not installed with the tde package",
        remedy="Reinstall tde; in a source checkout run: make build",
    )


_INCOMPLETE = re.compile(r"OpenSSL offers no .*")  # c_ext/crypto/primitives.h
# c_ext/interpose/keys/records.c and c_ext/format/keyrecord.c
_FOREIGN_KEY = re.compile(
    r"could not use key file (/.+/[^/]+\.key): it is wrapped with another master key"
)


def is_interposed(pid: int) -> bool:
    """Tell whether the interposer is loaded in a process.

    Raises:
        OSError: the process is gone, or its memory map may not be read.
    """
    if read_published_status(pid) is not None:
        return True
    # A server without keys does not hide its memory.
    maps = read_process_file(pid, "maps").decode(errors="replace")
    # The kernel appends " (deleted)" when the library was reinstalled since.
    return f"/{INTERPOSER_NAME}" in maps


def require_interposed(output: str) -> None:
    """Recognise a program's failure that only means that the interposer or its keys were missing.

    Args:
        output: what the program that failed has printed or logged.

    Raises:
        InterposerError: the output tells so, or that OpenSSL lacks what keys need; otherwise
            nothing happens.
        KeystoreBusyError: or that the master key was rotated meanwhile.
        KeystoreDamagedError: or that a key file has another master key than the keystore.
    """
    foreign = _FOREIGN_KEY.search(output)
    if foreign is not None:
        raise _foreign_key(Path(foreign[1]))
    incomplete = _INCOMPLETE.search(output)
    if incomplete is not None:
        raise InterposerError(
            f"the server's program cannot use its keys: {incomplete[0].strip()}",
            remedy="See `openssl list -providers`. With OPENSSL_CONF=/dev/null it uses the default "
            "provider.",
        )
    ignored = "from LD_PRELOAD cannot be preloaded"
    lines = [line for line in output.splitlines() if ignored in line and INTERPOSER_NAME in line]
    if not lines and GUARD_FILE not in output:
        return
    reason = lines[0].strip() if lines else "it could not read its encrypted configuration"
    raise InterposerError(
        f"the server's program ran without the interposer or without keys: {reason}\n{output}",
        remedy="Do not create the file that is named, and leave postgresql.conf as it is. "
        "Reinstall tde (in a checkout: make build); the file system of libtde_io.so must not be "
        "mounted noexec, and its architecture must be the server's. If tde.json is missing in "
        "the data directory, restore it from a backup.",
    )


def _foreign_key(file: Path) -> KeystoreError:
    """Return the error about a key file with another master key than the server was given."""
    from tde.keystore.store.files import read_private_file
    from tde.keystore.store.reading import read_document
    from tde.keystore.store.record import NAMED_RECORD_BYTES, parse_record
    from tde.keystore.store.remedies import replace_key

    try:
        record = parse_record(read_private_file(file, NAMED_RECORD_BYTES), str(file))
        current = read_document(file.parent.parent).header.master_key_id
    except (KeystoreError, FileNotFoundError):
        current = None
    if current is not None and record.header.master_key_id != current:
        return KeystoreDamagedError(
            f"{file} is wrapped with another master key than the one in keystore.json",
            remedy=replace_key(file),
        )
    return KeystoreBusyError(
        "the keystore's master key was rotated after it had been opened",
        remedy="Repeat the command.",
    )
