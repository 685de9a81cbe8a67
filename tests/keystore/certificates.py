"""Certificates of a test: an authority, and those that it gives to a server and a client."""

from __future__ import annotations

import datetime
import ipaddress
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_Extension = tuple[x509.ExtensionType, bool]  # With whether it is critical.


@dataclass(frozen=True)
class Certificates:
    """The files of one authority."""

    directory: Path

    @property
    def ca(self) -> Path:
        return self.directory / "ca.pem"

    def certificate(self, name: str) -> Path:
        return self.directory / f"{name}.pem"

    def key(self, name: str) -> Path:
        return self.directory / f"{name}.key"


def make_certificates(
    directory: Path, host: str = "localhost", *, complete: bool = True
) -> Certificates:
    """Make an authority, a server called ``host``, and a client.

    Args:
        complete: whether they have all that RFC 5280 asks for, as Python demands from 3.13 on.
    """
    directory.mkdir()
    made = Certificates(directory)
    authority = ec.generate_private_key(ec.SECP256R1())
    is_authority: list[_Extension] = [(x509.BasicConstraints(ca=True, path_length=None), True)]
    if complete:
        is_authority.append((_usage(key_cert_sign=True, crl_sign=True), True))
    made.ca.write_bytes(_certificate("authority", authority, authority, is_authority, complete))
    for name, purpose in (
        ("server", ExtendedKeyUsageOID.SERVER_AUTH),
        ("client", ExtendedKeyUsageOID.CLIENT_AUTH),
    ):
        key = ec.generate_private_key(ec.SECP256R1())
        made.key(name).write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.TraditionalOpenSSL,
                serialization.NoEncryption(),
            )
        )
        made.key(name).chmod(0o600)
        names = [x509.DNSName(host), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        if host != "localhost":
            names.pop()
        extensions: list[_Extension] = [
            (x509.SubjectAlternativeName(names), False),
            (x509.ExtendedKeyUsage([purpose]), False),
        ]
        if complete:
            extensions.append((x509.BasicConstraints(ca=False, path_length=None), True))
            extensions.append((_usage(digital_signature=True), True))
        made.certificate(name).write_bytes(_certificate(name, key, authority, extensions, complete))
    return made


def _usage(**allowed: bool) -> x509.KeyUsage:
    uses = (
        *("digital_signature", "content_commitment", "key_encipherment", "data_encipherment"),
        *("key_agreement", "key_cert_sign", "crl_sign", "encipher_only", "decipher_only"),
    )
    return x509.KeyUsage(**{use: allowed.get(use, False) for use in uses})


def _certificate(
    name: str,
    key: ec.EllipticCurvePrivateKey,
    authority: ec.EllipticCurvePrivateKey,
    extensions: list[_Extension],
    complete: bool,
) -> bytes:
    now = datetime.datetime.now(datetime.timezone.utc)
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "authority")]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
    )
    if complete:
        of_issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.public_key())
        own = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
        extensions = [*extensions, (own, False), (of_issuer, False)]
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical)
    certificate = builder.sign(authority, hashes.SHA256())
    return certificate.public_bytes(serialization.Encoding.PEM)
