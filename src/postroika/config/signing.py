"""Finds what is wrong with [[dkim]], [signing] and [tlsrpt]."""

from __future__ import annotations

import re
from collections.abc import Iterator

from postroika.config.addresses import canonical_domain, is_selector
from postroika.config.sections import Config
from postroika.config.sections_outbound import Dkim

_MOST_SIGNATURES = 4  # of one message: each costs a verifier a look-up
_LEAST_EXPIRY_S = 3600
# RFC 5322 §3.2.3, §3.4.1: what needs no quotes.
_DOT_ATOM = r"(?=.{1,64}\Z)[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(\.[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*"


def signing_problems(config: Config) -> Iterator[tuple[str, str]]:
    """(key, problem) of each value that cannot be meant."""
    yield from _dkim(config)
    yield from _signing(config)
    yield from _tlsrpt(config)


def _dkim(config: Config) -> Iterator[tuple[str, str]]:
    """Domains and names that can stand in a signature, and no two keys that a verifier could not tell apart."""
    seen: dict[tuple[str, str, str], int] = {}
    beside: dict[tuple[str, str], int] = {}
    for i, entry in enumerate(config.dkim):
        try:
            domain = entry.domain if entry.domain == "*" else canonical_domain(entry.domain)
            signing_domain = canonical_domain(entry.signing_domain) if entry.signing_domain else domain.lstrip(".")
        except ValueError as error:
            yield f"dkim[{i}].{'signing_domain' if entry.signing_domain else 'domain'}", str(error)
            continue
        if signing_domain.startswith((".", "[")):
            yield f"dkim[{i}].signing_domain", f"{signing_domain!r} cannot have a key in the DNS"
        elif signing_domain == "*":
            yield f"dkim[{i}].signing_domain", 'must be given with domain = "*"'
        if not is_selector(entry.selector):
            yield f"dkim[{i}].selector", f"{entry.selector!r} is not a selector: labels of a domain name"
        if entry.identity:
            yield from _identity(f"dkim[{i}].identity", entry.identity, signing_domain)
        first = seen.setdefault((entry.tenant, domain, f"{entry.selector.lower()}.{signing_domain}"), i)
        if first != i:
            yield f"dkim[{i}].selector", f"is that of dkim[{first}], for the same mail"
        count = beside[entry.tenant, domain] = beside.get((entry.tenant, domain), 0) + 1
        if count > _MOST_SIGNATURES:
            yield f"dkim[{i}]", f"more than {_MOST_SIGNATURES} keys sign the same mail"


def _identity(key: str, identity: str, signing_domain: str) -> Iterator[tuple[str, str]]:
    domain = identity.rpartition("@")[2].lower()
    if not re.fullmatch(r"[A-Za-z0-9!#$&'*+/?^_`{|}~.-]*@[A-Za-z0-9._-]+", identity):
        yield key, f'{identity!r} is not "@domain" or "name@domain"'
    elif domain != signing_domain and not domain.endswith(f".{signing_domain}"):
        yield key, f"{identity!r} is not in {signing_domain} (RFC 6376 section 3.5, i=)"


def _signing(config: Config) -> Iterator[tuple[str, str]]:
    signing = config.signing
    for key in ("oversigned", "signed"):
        seen: set[str] = set()
        for i, name in enumerate(getattr(signing, key)):
            if not re.fullmatch(r"[!-9<-~]+", name):
                yield f"signing.{key}[{i}]", f"{name!r} is not the name of a header field"
            elif name.lower() in {"dkim-signature", "return-path", "received"}:
                yield f"signing.{key}[{i}]", f"{name} changes on the way: signatures would break (RFC 6376 section 5.4)"
            elif name.lower() in seen:
                yield f"signing.{key}[{i}]", f"{name} is named twice"
            seen.add(name.lower())
    if signing.oversigned and "from" not in {name.lower() for name in signing.oversigned}:
        yield "signing.oversigned", "must have From (RFC 6376 section 5.4)"
    if 0 < signing.expire_after_s < _LEAST_EXPIRY_S:
        yield "signing.expire_after_s", f"less than {_LEAST_EXPIRY_S} s are too few for mail that waits on its way"


def _tlsrpt(config: Config) -> Iterator[tuple[str, str]]:
    """A contact that mail can come from, signed."""
    contact = config.tlsrpt.contact
    if not contact:
        return
    local, _, domain = contact.rpartition("@")
    try:
        domain = canonical_domain(domain)
    except ValueError as error:
        yield "tlsrpt.contact", str(error)
        return
    if not re.fullmatch(_DOT_ATOM, local) or domain.startswith(("[", ".")):
        yield "tlsrpt.contact", f"{contact!r} is not an address, as tls-reports@shop.example"
    elif not any(_signs(entry, domain) for entry in config.dkim):
        yield (
            "tlsrpt.contact",
            f"no [[dkim]] key signs for {domain}, and unsigned reports do not count (RFC 8460)",
        )
    if not config.tlsrpt.organization.isprintable():
        yield "tlsrpt.organization", "has characters that cannot be shown"


def _signs(entry: Dkim, domain: str) -> bool:
    """Whether it is a key for mail of ours from that domain."""
    if entry.tenant:
        return False
    try:
        name = entry.domain if entry.domain == "*" else canonical_domain(entry.domain)
    except ValueError:
        return True  # reported by _dkim
    return name in {"*", domain} or (name.startswith(".") and domain.endswith(name))
