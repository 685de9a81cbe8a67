"""Statistics of bytes whose key is unknown: could they be ciphertext?

Whole 512-byte sectors are judged in C (c_ext/format/page.c): the sum of the squares of the byte
counts, which is chi-square up to a factor, is above the limit for one sector of ciphertext in
2**50, and for every sector that is half text or has 40 equal bytes. What is left at the end of a
file is judged here in the same way, if it is long enough for the statistic to see text.
"""

from __future__ import annotations

from collections import Counter

from tde import _core

SECTOR = 512
#: Fewer bytes of text do not differ from random ones surely enough.
SHORTEST = 128

# Limits for ends of files: Chernoff bounds at 2**-50, as for whole sectors. A length in between
# uses its first bytes only.
_LIMITS = {384: 1954, 256: 1164, 192: 833, 128: 548}


def looks_random(data: bytes | memoryview) -> bool | None:
    """Tell whether bytes could be ciphertext; ``None`` when they are too few to tell.

    Sectors of zeros are passed over, because they are stored as such.
    """
    whole = len(data) - len(data) % SECTOR
    if _core.AUDIT_NOT_RANDOM in _core.audit_random(data[:whole]):
        return False
    tail = bytes(data[whole:])
    length = next((length for length in _LIMITS if len(tail) >= length), 0)
    if length and any(tail):
        counts = Counter(tail[:length])
        if sum(count * count for count in counts.values()) > _LIMITS[length]:
            return False
    return True if whole or length or not any(tail) else None
