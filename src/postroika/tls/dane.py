"""Judges the certificates that a server has shown by the TLSA records of its name.

Promise: "" for a server that is authentic, else the reason in one line; whatever the certificates are, never an
exception. Authorities of the system play no part.

How: for DANE-EE(3) octets and digests are compared, and nothing more. For DANE-TA(2) the authority is looked for among
the certificates that were sent, and in the records themselves; from there down to the server's certificate the path is
checked by `cryptography` (signatures, validity, constraints), which takes RSA and ECDSA keys only, as browsers do.

Cost, measured on one core of a small virtual machine: some 50 µs for DANE-EE, 0.6 to 0.9 ms for DANE-TA; once for each
session that is not resumed, beside a handshake of about 1.5 ms. Whoever publishes many records and sends many
certificates can make it dearer, up to 0.2 or 0.3 s: of both only so many are looked at, keys that are slow are not
used, and so many signatures are checked (with bare keys they are counted; on paths there are less than 128, as only
so many certificates may have the same name).

Source: RFC 7671 §5, RFC 7672 §3.
"""

from __future__ import annotations

import functools
import itertools
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, TypeAlias

from postroika.tls.tlsa import Dane, Matching, Selector, Tlsa, Usage

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec, rsa

    _Key: TypeAlias = rsa.RSAPublicKey | ec.EllipticCurvePublicKey

# More certificates than this are of no use to anybody, and a hostile server can send hundreds.
_CHAIN_MAX = 16
# Of each usage; more than the intermediates of a big authority, which some domains list all.
_RECORDS_MAX = 32
# That are checked with bare keys: each costs up to 4 ms (ECDSA with P-521), in which nobody else is served.
_SIGNATURES_MAX = 16
# To check a signature takes the longer the more bits these have. Keys in use have 17 and 2048 to 4096.
_EXPONENT_BITS_MAX = 32
_MODULUS_BITS_MAX = 4096
# Of the same subject, and above one another: each of many with one name may be the issuer of each, and there are as
# many paths to be tried as these can be put in a row. Of `cryptography` only new versions end that by themselves.
_NAMESAKES_MAX = 2
_INTERMEDIATES_MAX = 4
_RECORDS_TOLD = 3


def judge(dane: Dane, chain: Sequence[bytes], at: float) -> str:
    """Whether `chain` is of the server that `dane` speaks of.

    Args:
        chain: certificates as they were sent (DER), the server's own first.
        at: the time, in epoch seconds.

    Returns:
        "" if it is, else why not.
    """
    if not chain:
        return "it showed no certificate"
    own = [record for record in dane.records if record.usage == Usage.DANE_EE]
    if any(record.matches(chain[0]) for record in own[:_RECORDS_MAX]):
        return ""
    authorities = [record for record in dane.records if record.usage == Usage.DANE_TA]
    if not authorities:
        return _matches_none(dane)
    try:
        return _judge_path(dane, authorities[:_RECORDS_MAX], chain[:_CHAIN_MAX], at)
    except Exception as error:  # noqa: BLE001 - what `cryptography` raises for what it cannot read is of many kinds
        return f"its certificates cannot be read: {_line(error)}"


def _matches_none(dane: Dane) -> str:
    told = [f"{record.usage} {record.selector} {record.matching}" for record in dane.records]
    kinds = ", ".join(list(dict.fromkeys(told))[:_RECORDS_TOLD])
    return f"its certificate matches no TLSA record of {dane.base} ({kinds})"


def _judge_path(dane: Dane, records: list[Tlsa], chain: Sequence[bytes], at: float) -> str:
    from cryptography import x509  # loads much, and few need it

    try:
        leaf = x509.load_der_x509_certificate(chain[0])
        names = _names(leaf)
    except Exception as error:  # noqa: BLE001 - ValueError, InvalidVersion, UnsupportedGeneralNameType, by what is wrong
        return f"its certificate cannot be read: {_line(error)}"
    others: list[x509.Certificate] = []
    anchors: list[x509.Certificate] = []
    for der in dict.fromkeys(chain[1:]):
        if (certificate := _readable(der)) is not None:
            others.append(certificate)
            if any(record.matches(der) for record in records):
                anchors.append(certificate)
    anchors += _anchors_in(records, [leaf, *others])
    if not anchors:
        return _matches_none(dane)
    anchors = _few([one for one in anchors if _key_of(one) is not None])
    if not anchors:
        return "certificate verify failed: the authority has a key of a kind or size that is not in use"
    others = _few([one for one in others if _key_of(one) is not None])
    reason = _path_problem(leaf, others, anchors, at)
    if reason:
        return f"certificate verify failed: {reason}"
    if not any(_names_match(pattern, name) for pattern in names for name in dane.names):
        return f"certificate verify failed: it is not for {' or '.join(dane.names)}"
    return ""


def _readable(der: bytes) -> x509.Certificate | None:
    """What cannot be read is of no use in a chain, and does no harm."""
    from cryptography import x509

    try:
        return x509.load_der_x509_certificate(der)
    except Exception:  # noqa: BLE001 - ValueError or InvalidVersion
        return None


def _anchors_in(records: list[Tlsa], sent: list[x509.Certificate]) -> list[x509.Certificate]:
    """Authorities that are in a record as a whole, and so need not have been sent: certificates; or, for bare public
    keys, the certificates that were signed with them.

    Source: RFC 7671 §5.2.2, §5.2.3.
    """
    from cryptography.hazmat.primitives.serialization import load_der_public_key

    anchors: list[x509.Certificate] = []
    keys: list[_Key] = []
    for record in records:
        if record.matching != Matching.FULL:
            continue
        if record.selector == Selector.CERTIFICATE:
            if (certificate := _readable(record.association)) is not None:
                anchors.append(certificate)
        elif (key := _usable(functools.partial(load_der_public_key, record.association))) is not None:
            keys.append(key)
    pairs = itertools.islice(itertools.product(keys, sent), _SIGNATURES_MAX)
    return anchors + [one for key, one in pairs if _is_signed_with(one, key)]


def _few(authorities: list[x509.Certificate]) -> list[x509.Certificate]:
    """The first ones of each name."""
    seen: Counter[bytes] = Counter()
    few: list[x509.Certificate] = []
    for one in authorities:
        name = one.subject.public_bytes()
        seen[name] += 1
        if seen[name] <= _NAMESAKES_MAX:
            few.append(one)
    return few


def _key_of(authority: x509.Certificate) -> _Key | None:
    return _usable(authority.public_key)


def _usable(load: Callable[[], object]) -> _Key | None:
    """The key, if it is one that authorities have. Signatures of others may take long to check."""
    from cryptography.hazmat.primitives.asymmetric import ec, rsa

    try:
        key = load()
        if isinstance(key, rsa.RSAPublicKey):
            few = key.public_numbers().e.bit_length() <= _EXPONENT_BITS_MAX and key.key_size <= _MODULUS_BITS_MAX
            return key if few else None
    except Exception:  # noqa: BLE001 - ValueError and UnsupportedAlgorithm, by what is wrong with it; it is of no use
        return None
    curves = ec.SECP256R1 | ec.SECP384R1 | ec.SECP521R1
    return key if isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, curves) else None


def _is_signed_with(certificate: x509.Certificate, key: _Key) -> bool:
    from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

    try:
        how = certificate.signature_algorithm_parameters
        signature, signed = certificate.signature, certificate.tbs_certificate_bytes
        hashed_with = certificate.signature_hash_algorithm
        if isinstance(key, rsa.RSAPublicKey) and isinstance(how, padding.PKCS1v15 | padding.PSS) and hashed_with:
            key.verify(signature, signed, how, hashed_with)
        elif isinstance(key, ec.EllipticCurvePublicKey) and isinstance(how, ec.ECDSA):
            key.verify(signature, signed, how)
        else:
            return False
    except (InvalidSignature, UnsupportedAlgorithm, ValueError):
        return False
    return True


def _path_problem(
    leaf: x509.Certificate, others: list[x509.Certificate], anchors: list[x509.Certificate], at: float
) -> str:
    """Why there is no path from an anchor to the leaf; "" if there is one."""
    from cryptography import x509
    from cryptography.x509 import verification

    any_way = verification.Criticality.AGNOSTIC
    for_servers = verification.ExtensionPolicy.permit_all().may_be_present(
        x509.ExtendedKeyUsage, any_way, _must_be_for_servers
    )
    for_authorities = (
        verification.ExtensionPolicy.permit_all()
        .require_present(x509.BasicConstraints, any_way, None)
        .may_be_present(x509.KeyUsage, any_way, _must_sign)
        .may_be_present(x509.ExtendedKeyUsage, any_way, _must_be_for_servers)
    )
    builder = (
        verification.PolicyBuilder()
        .store(verification.Store(anchors))
        .time(datetime.fromtimestamp(at, UTC))
        .max_chain_depth(_INTERMEDIATES_MAX)
        .extension_policies(ca_policy=for_authorities, ee_policy=for_servers)
    )
    try:
        # The one for servers wants a name and knows no common names: ours are checked afterwards.
        builder.build_client_verifier().verify(leaf, others)
    except (verification.VerificationError, ValueError) as error:
        return _line(error).removeprefix("validation failed: ").partition(" (encountered")[0]
    return ""


def _must_be_for_servers(_policy: object, _certificate: x509.Certificate, usage: x509.ExtendedKeyUsage | None) -> None:
    from cryptography.x509.oid import ExtendedKeyUsageOID as Oid

    if usage is not None and Oid.SERVER_AUTH not in usage and Oid.ANY_EXTENDED_KEY_USAGE not in usage:
        raise ValueError("a certificate in the chain is not for servers")


def _must_sign(_policy: object, _certificate: x509.Certificate, usage: x509.KeyUsage | None) -> None:
    if usage is not None and not usage.key_cert_sign:
        raise ValueError("an authority in the chain may not sign certificates")


def _names(leaf: x509.Certificate) -> list[str]:
    """What the server is called in its certificate: DNS names, or where there is none the common name."""
    from cryptography import x509

    try:
        alternatives = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        names = alternatives.get_values_for_type(x509.DNSName)
    except (x509.ExtensionNotFound, x509.DuplicateExtension):
        names = []
    if not names:
        common = leaf.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
        names = [str(attribute.value) for attribute in common]
    return [name.lower().removesuffix(".") for name in names]


def _names_match(pattern: str, name: str) -> bool:
    """`*` stands for the whole first label (RFC 6125 §6.4.3), and never for all there is."""
    if pattern == name:
        return True
    first, _, parent = name.partition(".")
    return bool(first) and "." in parent and pattern == f"*.{parent}"


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
