"""Asks one libcrypto who would do its AES-XTS; run by itself, because the file is another's.

    python -I openssl_probe.py LIBCRYPTO

prints one JSON object. It imports nothing of tde, and loads the configuration of OpenSSL as every
program does (``OPENSSL_CONF``, ``OPENSSL_MODULES``).
"""

from __future__ import annotations

import ctypes
import json
import os
import sys


def probe(path: str) -> dict[str, object]:
    """Return version, provider of AES-256-XTS, and whether only FIPS algorithms are fetched."""
    # Its own symbols first: Python may have loaded another libcrypto.
    crypto = ctypes.CDLL(path, mode=os.RTLD_LOCAL | os.RTLD_NOW | os.RTLD_DEEPBIND)
    crypto.OpenSSL_version.restype = ctypes.c_char_p
    found: dict[str, object] = {"version": crypto.OpenSSL_version(0).decode()}
    if not hasattr(crypto, "OSSL_PROVIDER_get0_name"):
        return found  # OpenSSL 1.1 has no providers.
    crypto.EVP_CIPHER_fetch.restype = ctypes.c_void_p
    crypto.EVP_CIPHER_fetch.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_char_p]
    crypto.EVP_CIPHER_get0_provider.restype = ctypes.c_void_p
    crypto.EVP_CIPHER_get0_provider.argtypes = [ctypes.c_void_p]
    crypto.OSSL_PROVIDER_get0_name.restype = ctypes.c_char_p
    crypto.OSSL_PROVIDER_get0_name.argtypes = [ctypes.c_void_p]
    crypto.EVP_default_properties_is_fips_enabled.argtypes = [ctypes.c_void_p]
    cipher = crypto.EVP_CIPHER_fetch(None, b"AES-256-XTS", None)
    if cipher:
        provider = crypto.OSSL_PROVIDER_get0_name(crypto.EVP_CIPHER_get0_provider(cipher))
        found["provider"] = provider.decode()
    found["fips_only"] = bool(crypto.EVP_default_properties_is_fips_enabled(None))
    return found


if __name__ == "__main__":
    print(json.dumps(probe(sys.argv[1])))
