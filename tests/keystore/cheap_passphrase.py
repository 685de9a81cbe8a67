"""What tests of all folders share: a passphrase, and a key derivation that costs little."""

from __future__ import annotations

from tde.keystore import KdfParameters

PASSPHRASE = b"a passphrase for tests"

# The lowest costs that a keystore may have; the default takes half a second each time.
CHEAP_KDF = KdfParameters(memory_kib=8 * 1024, iterations=1, lanes=1)
