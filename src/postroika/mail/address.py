"""Mail addresses: taking them apart, and the domain in the one form that is compared, looked up and queued.

Promise: two spellings of a domain that DNS takes for the same come out the same (lower case, A-labels, canonical
address literals), so that policy, routing and queues can compare strings. Policy and routing must use the same form:
otherwise "ours" and "where it goes" could differ, and that is a relay for strangers.
Source: RFC 5321 §4.1.2, §4.1.3; RFC 5890; UTS #46.
"""

from __future__ import annotations

import functools
import ipaddress
import re

import idna

_HOST_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-_.")
_DOTS = re.compile("[.\u3002\uff0e\uff61]")  # RFC 3490 §3.1
_MAX_DOMAIN = 253  # RFC 1035 §2.3.4, in presentation form without the last dot
_MAX_LABEL = 63


def split_address(address: str) -> tuple[str, str]:
    """Local part and domain; "" for a domain that is not there.

    A local part may hold "@" inside quotes, a domain never does, so the last "@" is the one.
    """
    local, at, domain = address.rpartition("@")
    return (local, domain) if at else (domain, "")


def is_literal(domain: str) -> bool:
    """Whether `domain` is an address literal, "[192.0.2.1]"."""
    return domain.startswith("[") and domain.endswith("]")


def literal_ip(domain: str) -> str:
    """The IP address in an address literal.

    Raises:
        ValueError: not an address literal of an IP address.
    """
    if not is_literal(domain):
        raise ValueError(f"{domain!r} is not an address literal")
    text = domain[1:-1]
    if text[:5].lower() == "ipv6:":
        if "%" in text:
            raise ValueError(f"{domain!r} has a scope, which means nothing outside of one machine")
        return str(ipaddress.IPv6Address(text[5:]))
    return str(ipaddress.IPv4Address(text))


def canonical_domain(domain: str) -> str:
    """`domain` in lower case, as A-labels, without a last dot; a literal as "[192.0.2.1]" or "[ipv6:2001:db8::1]".

    Raises:
        ValueError: it can be neither a host name nor an address literal.
    """
    if domain.isascii():
        lower = domain.lower()
        if is_literal(lower):
            ip = literal_ip(lower)
            return f"[ipv6:{ip}]" if ":" in ip else f"[{ip}]"
        lower = lower.removesuffix(".")
        _check(lower)
        return lower
    return _to_ascii(domain)


@functools.lru_cache(maxsize=4096)
def _to_ascii(domain: str) -> str:
    """U-labels to A-labels: IDNA 2008 with the mapping of UTS #46; failing that IDNA 2003, whose domains (emoji)
    are still out there."""
    try:
        ascii_form = idna.encode(domain, uts46=True).decode("ascii")
    except idna.IDNAError:
        try:
            ascii_form = domain.encode("idna").decode("ascii")
        except UnicodeError as error:
            raise ValueError(f"{domain!r} is not a domain name: {error}") from None
    if ascii_form.count(".") != len(_DOTS.findall(domain)):
        # U+2024 and its like: some map them to a dot, others see one label.
        raise ValueError(f"{domain!r} is not a domain name: a character that turns into a dot")
    ascii_form = ascii_form.lower().removesuffix(".")
    _check(ascii_form)
    return ascii_form


def _check(domain: str) -> None:
    if not _HOST_CHARACTERS.issuperset(domain):
        raise ValueError(f"{domain!r} is not a domain name: bad character")
    if len(domain) > _MAX_DOMAIN:
        raise ValueError(f"{domain!r} is not a domain name: too long")
    if len(domain) > _MAX_LABEL or ".." in domain or not domain or domain[0] == ".":
        for label in domain.split("."):
            if not 0 < len(label) <= _MAX_LABEL:
                raise ValueError(f"{domain!r} is not a domain name: a label is empty or too long")


def routing_domain(address: str) -> str:
    """The domain that decides where `address` goes, in the form of `canonical_domain`.

    Never fails: a domain that is none (it cannot have passed the SMTP server, but may come from elsewhere) is given
    in lower case, and routing will not find it. "" for an address without domain.
    """
    domain = address[address.rfind("@") + 1 :] if "@" in address else ""
    if not domain:
        return ""
    try:
        return canonical_domain(domain)
    except ValueError:
        return domain.lower()
