"""Which libcrypto encrypts pages: the system's, or a newer one that the installation brings.

OpenSSL encrypts AES-XTS two to three times as fast since 3.5, on processors with VAES and AVX-512.
Where the system's is older, that of the wheel psycopg2-binary is loaded beside it, for pages and
nothing else (c_ext/crypto/library.h). ``TDE_LIBCRYPTO`` names another one, or is ``system``.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from tde import _core

if TYPE_CHECKING:
    from typing_extensions import Buffer

VARIABLE = "TDE_LIBCRYPTO"
SYSTEM = "system"

# Wheels that bring a libcrypto: the module, and the directory of libraries beside it.
_WHEELS = (("psycopg2", "psycopg2_binary.libs"), ("psycopg_binary", "psycopg_binary.libs"))

log = logging.getLogger(__name__)
_lock = threading.Lock()
_is_chosen = False


def find_libcrypto() -> Path | None:
    """Return the library that pages should be encrypted with, None for the system's.

    It may turn out not to serve; :func:`choose_libcrypto` and the interposer say so.
    """
    wanted = os.environ.get(VARIABLE, "")
    if wanted:
        return None if wanted == SYSTEM else Path(wanted)
    if not _core.libcrypto_would_gain():
        return None
    for module, libraries in _WHEELS:
        spec = importlib.util.find_spec(module)
        if spec is None or spec.origin is None:
            continue
        for path in _libraries(Path(spec.origin).parent.with_name(libraries)):
            return path
    return None


def _libraries(directory: Path) -> list[Path]:
    """Return the libcryptos in a directory; none where this user may not look."""
    try:
        found = sorted(directory.glob("libcrypto*.so.*"))
    except OSError:
        return []
    return [path for path in found if os.access(path, os.R_OK)]


def choose_libcrypto() -> None:
    """Load that library, once in a process and before the first cipher."""
    global _is_chosen
    with _lock:
        if _is_chosen:
            return
        _is_chosen = True
        path = find_libcrypto()
        problem = None if path is None else _core.choose_libcrypto(path)
    if problem is not None:
        used = _core.openssl_version()
        log.warning("%s cannot encrypt pages: %s; %s does, more slowly", path, problem, used)


def make_cipher(algorithm: int, key: Buffer, *, linked: bool = False) -> _core.Cipher:
    """Return a cipher of the core, which works with the library that was chosen.

    Args:
        linked: work with the system's library whichever was chosen, to measure it beside the other.
    """
    choose_libcrypto()
    return _core.Cipher(algorithm, key, linked=linked)
