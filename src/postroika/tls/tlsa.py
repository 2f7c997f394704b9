"""TLSA records, and what they say of a certificate. Pure; no signature is looked at here (see `dane`).

Promise: of octets that come from a stranger (records, certificates) nothing is read beyond their end, and what cannot
be understood is unusable, or matches nothing; never an exception.
"""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Iterable, Sequence
from typing import NamedTuple


class Usage(enum.IntEnum):
    """What a record speaks of (RFC 6698 §2.1.1, RFC 7218)."""

    PKIX_TA = 0
    PKIX_EE = 1
    DANE_TA = 2  # an authority of the domain's own, above the server's certificate
    DANE_EE = 3  # the server's certificate itself


class Selector(enum.IntEnum):
    """Which part of the certificate counts (RFC 6698 §2.1.2)."""

    CERTIFICATE = 0
    PUBLIC_KEY = 1


class Matching(enum.IntEnum):
    """What of that part is in the record (RFC 6698 §2.1.3)."""

    FULL = 0
    SHA_256 = 1
    SHA_512 = 2


_SELECTORS = frozenset(Selector)
_LENGTHS: dict[int, int] = {Matching.SHA_256: 32, Matching.SHA_512: 64}


class Tlsa(NamedTuple):
    """One record; the numbers may be any that fit into an octet."""

    usage: int
    selector: int
    matching: int
    association: bytes

    def __str__(self) -> str:
        return f"{self.usage} {self.selector} {self.matching} {self.association.hex()}"

    @property
    def usable(self) -> bool:
        """Whether SMTP can do anything with it: PKIX-TA and PKIX-EE count as unknown there.

        Source: RFC 7672 §3.1.3; RFC 6698 §4.1.
        """
        if self.usage not in {Usage.DANE_TA, Usage.DANE_EE} or self.selector not in _SELECTORS:
            return False
        if self.matching == Matching.FULL:
            if self.selector == Selector.CERTIFICATE:
                return public_key(self.association) is not None
            return _is_one_sequence(self.association)
        length = _LENGTHS.get(self.matching)
        return length is not None and len(self.association) == length

    def matches(self, certificate: bytes) -> bool:
        """Whether it speaks of this certificate (DER)."""
        part = certificate if self.selector == Selector.CERTIFICATE else public_key(certificate)
        if part is None:
            return False
        if self.matching == Matching.FULL:
            return part == self.association
        digest = hashlib.sha256(part) if self.matching == Matching.SHA_256 else hashlib.sha512(part)
        return digest.digest() == self.association


class Dane(NamedTuple):
    """What a server has to show. Made by `dane_for`.

    Args:
        base: the name that the records belong to: what the server is asked for (SNI).
        records: those that count; at least one.
        names: one of them has to be in a certificate that an authority of the domain's own has issued.
        digest: of all of the above, for telling it from others.
    """

    base: str
    records: tuple[Tlsa, ...]
    names: tuple[str, ...]
    digest: str


def dane_for(base: str, records: Iterable[Tlsa], names: Sequence[str]) -> Dane | None:
    """What a server has to show that has these records; None if none of them is usable.

    Of digests, only the strongest counts for each usage and selector: a weaker one could be all that an attacker can
    forge. Which names may be in a certificate makes no difference where only the server's own one counts.

    Args:
        base: the name below which the records are, without port and protocol.
        names: besides `base`, what the destination is called by, as far as the DNS vouches for it.

    Source: RFC 7671 §9; RFC 7672 §3.2.2.
    """
    usable = sorted({record for record in records if record.usable})
    strongest: dict[tuple[int, int], int] = {}
    for record in usable:
        kind = record.usage, record.selector
        strongest[kind] = max(strongest.get(kind, 0), record.matching)
    counting = tuple(
        record for record in usable if record.matching in {Matching.FULL, strongest[record.usage, record.selector]}
    )
    if not counting:
        return None
    asked = (base, *names) if any(record.usage == Usage.DANE_TA for record in counting) else ()
    asked = tuple(dict.fromkeys(asked))
    words = repr((base, counting, asked)).encode()
    return Dane(base, counting, asked, hashlib.sha256(words).hexdigest()[:16])


# --- DER, as far as it is needed


def public_key(certificate: bytes) -> bytes | None:
    """The SubjectPublicKeyInfo of a certificate, octet for octet; None if there is none to be found.

    A library would decode it and encode it anew, which need not give the same octets.

    Source: RFC 5280 §4.1; X.690 §8.1.
    """
    outer = _element(certificate, 0, len(certificate))
    if outer is None or outer.tag != _SEQUENCE or outer.end != len(certificate):
        return None
    inner = _element(certificate, outer.start, outer.end)
    if inner is None or inner.tag != _SEQUENCE:
        return None
    at, end = inner.start, inner.end
    # version (which may be missing), serialNumber, signature, issuer, validity, subject, subjectPublicKeyInfo
    for number in range(7):
        element = _element(certificate, at, end)
        if element is None:
            return None
        if number == 0 and element.tag != _VERSION:
            continue
        if number == 6:
            return certificate[at : element.end] if element.tag == _SEQUENCE else None
        at = element.end
    return None


_SEQUENCE = 0x30
_VERSION = 0xA0


class _Element(NamedTuple):
    tag: int
    start: int  # of its content
    end: int


def _element(octets: bytes, at: int, end: int) -> _Element | None:
    """The element at `at`; None if there is none that ends before `end`."""
    if end - at < 2:
        return None
    tag, length = octets[at], octets[at + 1]
    at += 2
    if tag & 0x1F == 0x1F:
        return None  # of several octets: nothing in a certificate has these
    if length >= 0x80:
        count = length & 0x7F
        if not 1 <= count <= 4 or end - at < count:
            return None
        length = int.from_bytes(octets[at : at + count], "big")
        at += count
    if length > end - at:
        return None
    return _Element(tag, at, at + length)


def _is_one_sequence(octets: bytes) -> bool:
    element = _element(octets, 0, len(octets))
    return element is not None and element.tag == _SEQUENCE and element.end == len(octets)
