"""Certificates of every kind, and the TLSA records for them. Made by `cryptography`, checked by nobody."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple, TypeAlias

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from postroika.tls.tlsa import Tlsa

Key: TypeAlias = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey
_DAY = timedelta(days=1)


class Issued(NamedTuple):
    """A certificate, its key, and who has issued it."""

    certificate: x509.Certificate
    key: Key
    issuer: Issued | None = None

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(Encoding.DER)

    @property
    def public_key(self) -> bytes:
        return self.key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)

    @property
    def chain(self) -> list[bytes]:
        """From this one up to the root, root included."""
        return [self.der] + (self.issuer.chain if self.issuer is not None else [])

    def pem(self, above: Sequence[Issued] = ()) -> bytes:
        """Key and certificate, and those that are to be sent with it."""
        key = self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        return key + b"".join(one.certificate.public_bytes(Encoding.PEM) for one in (self, *above))

    def write(self, file: Path, above: Sequence[Issued] = ()) -> Path:
        file.write_bytes(self.pem(above))
        file.chmod(0o600)
        return file


def with_octets_for_names(*names: bytes) -> x509.UnrecognizedExtension:
    """DNS names (up to 100 octets in all) as no library would write them."""
    written = b"".join(b"\x82" + bytes([len(name)]) + name for name in names)
    return x509.UnrecognizedExtension(x509.ObjectIdentifier("2.5.29.17"), b"\x30" + bytes([len(written)]) + written)


def new_key(kind: str = "ec") -> Key:
    if kind == "rsa":
        return rsa.generate_private_key(65537, 2048)
    return ed25519.Ed25519PrivateKey.generate() if kind == "ed25519" else ec.generate_private_key(ec.SECP256R1())


def issue(
    subject: str,
    issuer: Issued | None = None,
    *names: str,
    authority: bool = False,
    expired: bool = False,
    key: str = "ec",
    path_length: int | None = None,
    more: Sequence[tuple[x509.ExtensionType, bool]] = (),
    ours: Key | None = None,
) -> Issued:
    """A certificate with this common name, for these DNS names; self-signed without an issuer.

    Args:
        ours: its key, if it is not to be a new one.
    """
    ours = ours or new_key(key)
    signs = issuer.key if issuer is not None else ours
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(_name(subject))
        .issuer_name(issuer.certificate.subject if issuer is not None else _name(subject))
        .public_key(ours.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - (9 * _DAY if expired else _DAY))
        .not_valid_after(now - (3 * _DAY) if expired else now + 9 * _DAY)
    )
    if authority:
        builder = builder.add_extension(x509.BasicConstraints(True, path_length), True)
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(name) for name in names]), False)
    for extension, critical in more:
        builder = builder.add_extension(extension, critical)
    digest = None if isinstance(signs, ed25519.Ed25519PrivateKey) else SHA256()
    return Issued(builder.sign(signs, digest), ours, issuer)


def _name(common_name: str) -> x509.Name:
    """The name; "" for one without."""
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, common_name)] if common_name else [])


def tlsa(usage: int, selector: int, matching: int, issued: Issued) -> Tlsa:
    """The record for a certificate."""
    part = issued.public_key if selector == 1 else issued.der
    digests = {0: part, 1: hashlib.sha256(part).digest(), 2: hashlib.sha512(part).digest()}
    return Tlsa(usage, selector, matching, digests[matching])
