"""Tests that need a second libcrypto, which is faster than the system's."""

from __future__ import annotations

import pytest

from tde import _core
from tde.page.libcrypto import find_libcrypto

# Where psycopg2 was built on the machine, or without it, there is none to be had.
needs_second_libcrypto = pytest.mark.skipif(
    not _core.libcrypto_would_gain() or find_libcrypto() is None,
    reason="the system's OpenSSL is as fast as any here",
)
