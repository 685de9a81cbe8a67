"""TLS to a key server: its certificate and its name are always checked."""

from __future__ import annotations

import ssl

from tde.errors import ProviderError


def client_context(
    ca_file: str | None, certificate: str | None = None, key: str | None = None
) -> ssl.SSLContext:
    """Return what a connection to a key server is made with.

    Args:
        ca_file: the certificates that the server's is checked with; None for the system's.
        certificate, key: files of the client's own, if the server wants to know who asks.

    Raises:
        ProviderError: a file cannot be used.
    """
    try:
        context = ssl.create_default_context(cafile=ca_file)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if certificate is not None:
            # A key with a password would have OpenSSL ask on the terminal, which is not there.
            context.load_cert_chain(certificate, key, password=lambda: "")
    except (OSError, ssl.SSLError, ValueError) as error:
        raise ProviderError(
            f"its certificates cannot be used ({ca_file}, {certificate}, {key}): "
            f"{getattr(error, 'strerror', None) or error}",
            remedy="They are PEM files that the owner of the keystore can read, and the key has no "
            "password.",
        ) from error
    return context
