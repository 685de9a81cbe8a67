"""TLS to a key server: its certificate and its name are always checked."""

from __future__ import annotations

import ssl

from tde.errors import ProviderError, ProviderUnreachableError

# X509_V_ERR_PATHLEN_INVALID_FOR_NON_CA to X509_V_ERR_EXTENSIONS_REQUIRE_VERSION_3 (x509_vfy.h):
# what OpenSSL finds when it is told to be strict, as Python tells it from 3.13 on.
_NOT_AS_RFC_5280_ASKS = range(80, 94)


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


def unreachable(server: str, error: Exception, remedy: str) -> ProviderUnreachableError:
    """Return the error for a key server that gives no answer, or another's certificate.

    Args:
        remedy: for all but certificates that one Python takes and another does not.
    """
    code = error.verify_code if isinstance(error, ssl.SSLCertVerificationError) else None
    if code in _NOT_AS_RFC_5280_ASKS:
        remedy = (
            "From Python 3.13 on, certificates must be as RFC 5280 asks: have the CA make the "
            "server's anew, with an authority key identifier; the CA's own has critical basic "
            "constraints, key usage and a subject key identifier."
        )
    cause = " ".join(str(error).split()) or type(error).__name__
    return ProviderUnreachableError(f"no answer from {server}: {cause}", remedy=remedy)
